"""Training in batches of replicas: each is trained as it would be alone, measured or not."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional

from core.gram import GramWhitening
from core.linearity import NotFiniteError
from lab import training
from lab.data import Images
from lab.errors import Diverged
from lab.models import CNN, MLP
from lab.replicas import Replica, generator, generators, make_optimizer
from oracles import torch_layers

SHAPE, CLASSES = (2, 9, 8), 4
KINDS = ("MLP", "CNN")


def planted(n=50, seed=0):
    """Images of CLASSES classes that a network can learn; n is no multiple of the batch size."""
    rng = np.random.default_rng(seed)
    pattern = rng.integers(0, 150, size=(CLASSES, *SHAPE))
    y = rng.integers(0, CLASSES, size=(2, n))
    x = (pattern[y] + rng.integers(0, 100, size=(2, n, *SHAPE))).astype(np.uint8)
    arrays = (x[0], y[0], x[1, :33], y[1, :33])
    return Images("planted", *map(torch.from_numpy, arrays), unit=255.0, mean=0.5, std=0.5)


IMAGES = planted()


def build(kind, replicas, dtype=torch.float64):
    draws = generators(replicas, "weights")
    if kind == "MLP":
        return MLP((IMAGES.x_train[0].numel(), 12, 10, CLASSES), draws).to(dtype)
    return CNN(SHAPE, 6, CLASSES, draws).to(dtype)


def weights(model):
    return {"weights": torch.cat([p.flatten(1) for p in model.parameters()], dim=1)}


def everything(model):
    splits = (training.evaluate(model, IMAGES, split) for split in ("train", "test"))
    return weights(model) | next(splits) | next(splits)


SGD = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
OPTIMIZERS = {"SGD": SGD, "Adam": functools.partial(torch.optim.Adam, lr=0.01)}
RATES = [
    Replica(3),
    Replica(1, {"lr": 0.02}),
    Replica(2, {"lr": 0.02}),
    Replica(1, {"lr": 0.1}),
    Replica(1),
]


def fit(
    kind,
    replicas,
    optimizer=SGD,
    measure=weights,
    *,
    epochs=3,
    dtype=torch.float64,
    labels=None,
    whiten=False,
):
    """The loop of every script: epochs of four steps, measured before training and after each."""
    model = build(kind, replicas, dtype)
    stepper = make_optimizer(optimizer, model, replicas)
    if whiten:
        GramWhitening(stepper, batch_dims=1)
    orders = generators(replicas, "order")
    with training.Epochs(epochs, model, "planted") as running:
        for epoch in running:
            if epoch > 0:
                for x, y in training.shuffled_batches(IMAGES, 16, orders, dtype, labels):
                    training.cross_entropy(model(x), y).backward()
                    stepper.step()
                    stepper.zero_grad()
            running.record(measure(model))
    return running.arrays


def assert_bitwise(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("whiten", [False, True], ids=["plain", "whitened"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_replica_of_a_batch_equals_the_same_run_alone(kind, optimizer, whiten):
    together = fit(kind, RATES, OPTIMIZERS[optimizer], everything, whiten=whiten)
    for r, replica in enumerate(RATES):
        alone = fit(kind, [replica], OPTIMIZERS[optimizer], everything, whiten=whiten)
        for name, values in together.items():
            np.testing.assert_allclose(values[r], alone[name][0], rtol=0, atol=1e-9, err_msg=name)
    final = together["weights"][:, -1]
    assert all(np.abs(final[i] - final[j]).max() > 1e-3 for i in range(5) for j in range(i))


LABELS = torch.randint(CLASSES, (5, 50), generator=torch.Generator().manual_seed(0))  # (R, N)


@pytest.mark.parametrize("labels", [None, LABELS], ids=["the data's labels", "their own labels"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_written_by_hand_gives_the_same_weights(kind, optimizer, labels):
    found = fit(kind, RATES, OPTIMIZERS[optimizer], labels=labels)["weights"]
    initial = build(kind, RATES)
    for r, replica in enumerate(RATES):
        y = IMAGES.y_train if labels is None else labels[r]
        model = torch_layers(initial, r)
        stepper = OPTIMIZERS[optimizer](model.parameters(), **replica.options)
        order = generator(replica.seed, "order")
        for now in found[r]:
            by_hand = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
            np.testing.assert_allclose(now, by_hand, rtol=0, atol=1e-10)
            for index in torch.randperm(50, generator=order).split(16):
                x = (IMAGES.x_train[index].double() / 255 - 0.5) / 0.5
                stepper.zero_grad()
                functional.cross_entropy(model(x), y[index]).backward()
                stepper.step()


@pytest.mark.parametrize("kind", KINDS)
def test_measuring_changes_no_bit_of_training(kind):
    def busy(model):
        torch.rand(17), np.random.rand(17)  # noqa: NPY002
        model(torch.rand(2, 3, *SHAPE))
        training.evaluate(model, IMAGES, "train")
        return weights(model)

    replicas = [Replica(0), Replica(1, {"lr": 0.1})]
    measured = fit(kind, replicas, measure=busy, dtype=torch.float32)
    assert_bitwise(measured, fit(kind, replicas, dtype=torch.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_planted_classes(kind):
    found = fit(kind, [Replica(0), Replica(1)], OPTIMIZERS["Adam"], everything, epochs=25)
    assert found["train_accuracy"][:, 0].max() < 0.6
    assert found["train_accuracy"][:, -1].min() > 0.95
    assert (found["train_loss"][:, -1] < 0.5 * found["train_loss"][:, 0]).all()


def break_parameter(model, _):
    model.layers[1].bias[0, 0] = torch.nan


def break_features(*_):
    raise NotFiniteError("features are not finite")


FAILURES = {
    "parameter": break_parameter,
    "features": break_features,
    "measure": lambda _, epochs: epochs.check([torch.zeros(2), torch.tensor([torch.nan])]),
    "projection": lambda *_: torch.linalg.svd(torch.full((3, 3), torch.nan)),
}


@torch.no_grad()
def fail_in_epoch_1(fail):
    model = build("MLP", [Replica(0)])
    with training.Epochs(3, model, "mnist seed 0") as epochs:
        for epoch in epochs:
            if epoch == 1:
                fail(model, epochs)


def record_at_the_end(values, replicas=1, unchecked=()):
    """Epochs of which one measure has these values and another is never defined."""
    model = build("MLP", [Replica(0)] * replicas)
    with training.Epochs(len(values) - 1, model, "", unchecked) as epochs:
        for epoch in epochs:
            row = {"measure": values[epoch], "undefined": torch.nan}
            epochs.record({name: torch.full((replicas,), value) for name, value in row.items()})
    return epochs.arrays


class TestEpochs:
    @pytest.mark.parametrize("epochs", [1, 3])
    def test_axis_starts_before_training_and_has_an_entry_after_each_epoch(self, epochs):
        replicas = [Replica(0), Replica(1)]
        found = fit("MLP", replicas, measure=everything, epochs=epochs)
        assert all(values.shape[:2] == (2, epochs + 1) for values in found.values())
        for name, value in everything(build("MLP", replicas)).items():
            np.testing.assert_array_equal(found[name][:, 0], value.detach().numpy())
        longer = fit("MLP", replicas, measure=everything, epochs=epochs + 1)
        assert_bitwise(found, {name: values[:, :-1] for name, values in longer.items()})

    def test_an_entry_is_what_was_measured_then(self):
        model = build("MLP", [Replica(0)])
        with torch.no_grad(), training.Epochs(2, model, "") as epochs:
            for epoch in epochs:
                model.layers[0].weight.fill_(epoch)
                epochs.record({"weight": model.layers[0].weight})  # itself, which goes on to change
        assert epochs.arrays["weight"].shape == (1, 3, *model.layers[0].weight.shape[1:])
        assert [np.unique(row).tolist() for row in epochs.arrays["weight"][0]] == [[0], [1], [2]]

    def test_epochs_that_are_not_recorded_are_left_out(self):
        model = build("MLP", [Replica(0)])
        with training.Epochs(5, model, "") as epochs:
            for epoch in epochs:
                if epoch in training.measured_epochs(5, 2):
                    epochs.record({"epoch": torch.tensor([epoch])})
        assert epochs.arrays["epoch"].tolist() == [[0, 2, 4, 5]]

    @pytest.mark.parametrize("kind", KINDS)
    def test_only_a_model_that_convolves_is_trained_by_onednn(self, kind):
        def measure(_):
            return {"onednn": torch.full((1,), torch.backends.mkldnn.enabled)}

        found = fit(kind, [Replica(0)], measure=measure, epochs=1)
        assert found["onednn"].tolist() == [[kind == "CNN"] * 2]
        with pytest.raises(Diverged):
            fit(kind, [Replica(0, {"lr": 1e200})])
        assert torch.backends.mkldnn.enabled

    @pytest.mark.parametrize("wrong", FAILURES)
    def test_what_is_not_finite_ends_training_with_one_line(self, wrong):
        message = r"^mnist seed 0: training diverged in epoch 1; lower the learning rate$"
        with pytest.raises(Diverged, match=message):
            fail_in_epoch_1(FAILURES[wrong])

    @pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
    def test_a_measure_that_is_no_longer_finite_is_divergence_too(self, value):
        with pytest.raises(Diverged, match="in epoch 2;") as caught:
            record_at_the_end([1.0, 2.0, value])
        assert caught.value.epoch == 2
        assert caught.value.arrays["measure"].tolist() == [1.0, 2.0]
        assert np.isnan(caught.value.arrays["undefined"]).all()  # from the start: no divergence

    def test_a_measure_may_be_left_unchecked(self):
        found = record_at_the_end([1.0, 2.0, torch.inf], unchecked=("measure",))
        assert found["measure"].tolist() == [[1.0, 2.0, torch.inf]]

    def test_arrays_before_divergence_are_of_a_replica_alone(self):
        with pytest.raises(Diverged) as caught:
            record_at_the_end([1.0, 2.0, torch.inf], replicas=2)
        assert caught.value.arrays == {}

    def test_other_errors_stay_what_they_are(self):
        with pytest.raises(ZeroDivisionError):
            fail_in_epoch_1(lambda model, epochs: 1 / 0)
        with pytest.raises(ValueError, match="invalid literal"):
            fail_in_epoch_1(lambda model, epochs: int("x"))


@pytest.mark.parametrize(
    ("every", "epochs"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (5, [0, 5]), (9, [0, 5])]
)
def test_measured_epochs_are_the_first_every_so_many_and_the_last(every, epochs):
    assert training.measured_epochs(5, every) == epochs


@torch.no_grad()
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("batch", [7, 2000])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_equals_a_loop_over_samples(kind, batch, split, monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", batch)
    model = build(kind, RATES)
    found = training.evaluate(model, IMAGES, split)
    right, loss = np.zeros(len(RATES)), np.zeros(len(RATES))
    x, y = IMAGES.split(split)
    for image, label in zip(x, y, strict=True):
        scaled = (image.double() / 255 - 0.5) / 0.5
        logits = model(scaled.expand(len(RATES), 1, *SHAPE))[:, 0].numpy()
        right += logits.argmax(-1) == label.numpy()
        loss -= np.log(np.exp(logits[:, label]) / np.exp(logits).sum(-1))
    accuracy = found[f"{split}_accuracy"].numpy()
    np.testing.assert_allclose(accuracy, right / len(x), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[f"{split}_loss"].numpy(), loss / len(x), rtol=1e-12)
    assert not np.isin(right, (0, len(x))).any()
