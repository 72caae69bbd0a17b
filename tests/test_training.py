"""Training in batches of replicas: each is trained as it would be alone, measuring changes nothing, runs resume."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch.nn import functional

import cpu
import data
import training
from core.gram import GramWhitening
from models import CNN, MLP
from oracles import torch_layers
from results import Partial
from training import Replica, train, train_all

SHAPE, CLASSES = (2, 9, 8), 4


def planted(n=50, seed=0):
    """Images of CLASSES classes that a network can learn; n is no multiple of the batch size."""
    rng = np.random.default_rng(seed)
    pattern = rng.integers(0, 150, size=(CLASSES, *SHAPE))
    y = rng.integers(0, CLASSES, size=(2, n))
    x = (pattern[y] + rng.integers(0, 100, size=(2, n, *SHAPE))).astype(np.uint8)
    arrays = (x[0], y[0], x[1, :33], y[1, :33])
    return data.Images("planted", *map(torch.from_numpy, arrays), unit=255.0, mean=0.5, std=0.5)


IMAGES = planted()


def build(kind, replicas, dtype=torch.float64):
    generators = [training.generator(replica.seed, "weights") for replica in replicas]
    if kind == "MLP":
        return MLP((IMAGES.x_train[0].numel(), 12, 10, CLASSES), generators).to(dtype)
    return CNN(SHAPE, 6, CLASSES, generators).to(dtype)


def weights(model):
    return {"weights": torch.cat([p.flatten(1) for p in model.parameters()], dim=1)}


def everything(model):
    return weights(model) | training.evaluate(model, IMAGES, "test") | training.evaluate(model, IMAGES, "train")


SGD = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
OPTIMIZERS = {"SGD": SGD, "Adam": functools.partial(torch.optim.Adam, lr=0.01)}
RATES = [Replica(3), Replica(1, {"lr": 0.02}), Replica(2, {"lr": 0.02}), Replica(1, {"lr": 0.1}), Replica(1)]


def fit(kind, replicas, optimizer=SGD, measure=everything, epochs=5, dtype=torch.float64, **options):
    """Train for epochs of four steps."""
    options = {"batch_size": 16} | options
    return train(build(kind, replicas, dtype), IMAGES, replicas, optimizer, measure, epochs=epochs, **options)


def assert_bitwise(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("whiten", [False, True], ids=["plain", "whitened"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_replica_of_a_batch_equals_the_same_run_alone(kind, optimizer, whiten):
    attach = functools.partial(GramWhitening, batch_dims=1) if whiten else None
    together = fit(kind, RATES, OPTIMIZERS[optimizer], attach=attach)
    for r, replica in enumerate(RATES):
        alone = fit(kind, [replica], OPTIMIZERS[optimizer], attach=attach)
        for name, values in together.items():
            np.testing.assert_allclose(values[r], alone[name][0], rtol=0, atol=1e-9, err_msg=name)
    final = together["weights"][:, -1]
    assert all(np.abs(final[i] - final[j]).max() > 1e-3 for i in range(5) for j in range(i))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_forward_equals_torch_layers(kind):
    model = build(kind, RATES)
    x = torch.randn(len(RATES), 7, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = model(x)
    assert found.shape == (len(RATES), 7, CLASSES)
    for r in range(len(RATES)):
        torch.testing.assert_close(found[r], torch_layers(model, r)(x[r]), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_hidden_outputs_of_the_mlp_are_those_after_each_activation():
    model = build("MLP", RATES)
    x = torch.randn(len(RATES), 7, *SHAPE, generator=torch.Generator().manual_seed(0))
    hidden = model.hidden(x)
    assert [h.shape[2] for h in hidden] == [12, 10]
    for r in range(len(RATES)):
        layers = torch_layers(model, r)
        for h, stop in zip(hidden, (3, 5), strict=True):
            torch.testing.assert_close(h[r], layers[:stop](x[r]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_initial_weights_are_drawn_as_torch_draws_them(kind):
    model = build(kind, [Replica(seed) for seed in range(20)], torch.float32)
    layers = model.layers if kind == "MLP" else [*model.convolutions, model.readout]
    for layer, reference in zip(layers, [m for m in torch_layers(model, 0) if hasattr(m, "weight")], strict=True):
        reference.reset_parameters()
        for p, q in ((layer.weight, reference.weight), (layer.bias, reference.bias)):
            bound = 1 / layer.weight[0, 0].numel() ** 0.5
            assert p.shape[1:] == q.shape
            assert p.abs().max() <= bound
            assert q.abs().max() <= bound
            assert p.abs().max() > 0.9 * bound
            assert p.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


def test_initial_weights_of_a_replica_depend_on_its_seed_only():
    together, alone = build("CNN", [Replica(5), Replica(6)]), build("CNN", [Replica(6)])
    for p, q in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(p[1], q[0])
        assert not torch.equal(p[0], q[0])


def assert_equals_a_loop_by_hand(found, kind, optimizer, replicas, labels=None, loss=functional.cross_entropy):
    """The weights of every epoch are those of torch's own layers, trained one replica at a time."""
    initial = build(kind, replicas)
    for r, replica in enumerate(replicas):
        y = IMAGES.y_train if labels is None else labels[r]
        model = torch_layers(initial, r)
        stepper = optimizer(model.parameters(), **replica.options)
        order = training.generator(replica.seed, "order")
        for weights_then in found[r]:
            by_hand = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
            np.testing.assert_allclose(weights_then, by_hand, rtol=0, atol=1e-10)
            for index in torch.randperm(50, generator=order).split(16):
                x = (IMAGES.x_train[index].double() / 255 - 0.5) / 0.5
                stepper.zero_grad()
                loss(model(x), y[index]).backward()
                stepper.step()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_loop_written_by_hand_gives_the_same_weights(kind, optimizer):
    found = fit(kind, RATES, OPTIMIZERS[optimizer], weights)["weights"]
    assert_equals_a_loop_by_hand(found, kind, OPTIMIZERS[optimizer], RATES)


LABELS = torch.randint(CLASSES, (len(RATES), 50), generator=torch.Generator().manual_seed(0))  # (R, N)


def one_hot_error(logits, y):
    return (logits - functional.one_hot(y, CLASSES)).square().mean((-2, -1))


def summed_error(model, x, y):
    return one_hot_error(model(x), y).sum()


def test_labels_of_each_replica_are_trained_on_instead_of_the_datas():
    found = fit("MLP", RATES, measure=weights, epochs=2, labels=LABELS)["weights"]
    assert_equals_a_loop_by_hand(found, "MLP", SGD, RATES, LABELS)
    for r, replica in enumerate(RATES):
        alone = fit("MLP", [replica], measure=weights, epochs=2, labels=LABELS[r : r + 1])["weights"]
        np.testing.assert_allclose(found[r], alone[0], rtol=0, atol=1e-11)
    assert np.abs(found - fit("MLP", RATES, measure=weights, epochs=2)["weights"])[:, -1].max(1).min() > 1e-3


def test_labels_of_the_data_given_to_each_replica_change_no_bit():
    given = fit("CNN", RATES, epochs=2, labels=IMAGES.y_train.expand(len(RATES), -1))
    assert_bitwise(given, fit("CNN", RATES, epochs=2))


@pytest.mark.parametrize("labels", [None, LABELS], ids=["the data's", "their own"])
def test_a_loss_of_the_callers_is_what_is_trained(labels):
    found = fit("MLP", RATES, measure=weights, epochs=2, loss=summed_error, labels=labels)["weights"]
    assert_equals_a_loop_by_hand(found, "MLP", SGD, RATES, labels, one_hot_error)


def test_a_loss_is_given_scaled_images_and_the_labels_that_go_with_them():
    seen = []

    def loss(model, x, y):
        seen.append((x, y))
        return summed_error(model, x, y)

    fit("MLP", RATES[:2], epochs=1, loss=loss)
    assert [x.shape for x, _ in seen] == [(2, n, *SHAPE) for n in (16, 16, 16, 2)]
    scaled = (IMAGES.x_train.double() / 255 - 0.5) / 0.5
    rows = {row.numpy().tobytes(): int(y) for row, y in zip(scaled, IMAGES.y_train, strict=True)}
    for r in range(2):
        given = [(row.numpy().tobytes(), int(y)) for x, labels in seen for row, y in zip(x[r], labels[r], strict=True)]
        assert dict(given) == rows  # every sample once, with its own label
        assert len(given) == 50


@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_same_seed_gives_the_same_bits_and_another_seed_others(kind):
    replicas = [Replica(4), Replica(5)]
    torch.manual_seed(0)
    first = fit(kind, replicas, dtype=torch.float32)
    torch.manual_seed(1)
    assert_bitwise(fit(kind, replicas, dtype=torch.float32), first)
    assert np.abs(first["weights"][0] - first["weights"][1]).max() > 0.01


@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_measuring_does_not_change_training(kind):
    def busy(model):
        torch.rand(17), np.random.rand(17)  # noqa: NPY002
        model(torch.rand(2, 3, *SHAPE))
        training.evaluate(model, IMAGES, "train")
        return weights(model)

    replicas = [Replica(0), Replica(1, {"lr": 0.1})]
    measured = fit(kind, replicas, measure=busy, dtype=torch.float32)
    assert_bitwise(measured, fit(kind, replicas, measure=weights, dtype=torch.float32))


def test_streams_of_one_seed_differ_and_repeat():
    draws = {
        (seed, stream): tuple(torch.rand(4, generator=training.generator(seed, stream)).tolist())
        for seed in range(5)
        for stream in training.STREAMS
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[3, "order"] == tuple(torch.rand(4, generator=training.generator(3, "order")).tolist())


@pytest.mark.parametrize("epochs", [1, 3])
def test_epoch_axis_starts_before_training_and_has_an_entry_after_each_epoch(epochs):
    replicas = [Replica(0), Replica(1)]
    found = fit("MLP", replicas, epochs=epochs)
    model = build("MLP", replicas)
    assert all(values.shape[:2] == (2, epochs + 1) for values in found.values())
    for name, value in everything(model).items():
        np.testing.assert_array_equal(found[name][:, 0], value.detach().numpy())
    longer = fit("MLP", replicas, epochs=epochs + 1)
    assert_bitwise(found, {name: values[:, :-1] for name, values in longer.items()})


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (5, [0, 5]), (9, [0, 5])])
def test_measuring_less_often_leaves_out_epochs_but_the_last(every, epochs):
    often, rarely = (fit("MLP", [Replica(0)], measure=weights, every=step)["weights"] for step in (1, every))
    assert training.measured_epochs(5, every) == epochs
    np.testing.assert_array_equal(rarely, often[:, epochs])


def test_entry_of_an_epoch_is_what_was_measured_then():
    model = build("MLP", [Replica(0)])
    seen = []

    def measure(model):
        seen.append(model.layers[0].weight.detach().clone().numpy())
        return {"weight": model.layers[0].weight}  # the parameter itself, which training goes on to change

    found = train(model, IMAGES, [Replica(0)], SGD, measure, epochs=3, batch_size=16)["weight"]
    np.testing.assert_array_equal(found, np.stack(seen, axis=1))


@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_training_learns_planted_classes(kind):
    found = fit(kind, [Replica(0), Replica(1)], OPTIMIZERS["Adam"], epochs=25)
    assert found["train_accuracy"][:, 0].max() < 0.6
    assert found["train_accuracy"][:, -1].min() > 0.95
    assert (found["train_loss"][:, -1] < 0.5 * found["train_loss"][:, 0]).all()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("batch", [1, 7, 2000])
@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_evaluate_equals_a_loop_over_samples(kind, batch, split, monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", batch)
    model = build(kind, RATES)
    found = training.evaluate(model, IMAGES, split)
    right, loss = np.zeros(len(RATES)), np.zeros(len(RATES))
    x, y = IMAGES.split(split)
    for image, label in zip(x, y, strict=True):
        scaled = (image.double() / 255 - 0.5) / 0.5
        logits = model(scaled.expand(len(RATES), 1, *SHAPE))[:, 0].detach().numpy()
        right += logits.argmax(-1) == label.numpy()
        loss -= np.log(np.exp(logits[:, label]) / np.exp(logits).sum(-1))
    np.testing.assert_allclose(found[f"{split}_accuracy"].numpy(), right / len(x), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[f"{split}_loss"].numpy(), loss / len(x), rtol=1e-12)
    assert not np.isin(right, (0, len(x))).any()


def train_group(replicas):
    """Two epochs of a small MLP on the bundled digits, as an experiment would."""
    images = data.load("digits")
    model = MLP((64, 8, 10), [training.generator(replica.seed, "weights") for replica in replicas])

    def measure(model):
        return weights(model) | training.evaluate(model, images, "test")

    return train(model, images, replicas, SGD, measure, epochs=2, batch_size=64)


class Counted:
    """`train_group` that counts the replicas it trains, and stops before the one numbered `limit`."""

    def __init__(self, limit=None):
        self.groups, self.limit = [], limit

    def __call__(self, replicas):
        if len(self.groups) == self.limit:
            raise KeyboardInterrupt
        self.groups.append(list(replicas))
        return train_group(replicas)


RUNS = [Replica(0, {"lr": 0.05}), Replica(1, {"lr": 0.05}), Replica(0, {"lr": 0.2}), Replica(1, {"lr": 0.2})]


@pytest.fixture(scope="module")
def runs():
    return train_all(train_group, RUNS, device="cpu", jobs=1)


def assert_same_runs(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_bitwise(one, other)


def test_one_process_and_two_give_the_same_bits(runs):
    assert_same_runs(train_all(train_group, RUNS, device="cpu", jobs=2), runs)
    for replica, run in zip(RUNS, runs, strict=True):  # in the order asked for
        assert_bitwise(run, {name: values[0] for name, values in train_group([replica]).items()})


def test_a_gpu_is_given_all_missing_replicas_as_one_batch(runs, tmp_path):
    partial, counted = Partial(tmp_path), Counted()
    train_all(train_group, RUNS[1:2], device="cpu", jobs=1, partial=partial)
    found = train_all(counted, RUNS, device="cuda", partial=partial)  # only deals out: the group runs on the CPU
    assert counted.groups == [[RUNS[0], RUNS[2], RUNS[3]]]
    for one, other in zip(found, runs, strict=True):
        np.testing.assert_allclose(one["weights"], other["weights"], rtol=0, atol=1e-4)


def test_a_run_that_was_cut_off_resumes_with_the_missing_replicas(runs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_all(Counted(limit=3), RUNS, device="cpu", jobs=1, partial=Partial(tmp_path))
    counted = Counted()
    found = train_all(counted, RUNS, device="cpu", jobs=1, partial=Partial(tmp_path))
    assert counted.groups == [[RUNS[3]]]
    assert_same_runs(found, runs)


def test_finished_replicas_are_told_apart_by_seed_and_options(runs, tmp_path):
    train_all(train_group, RUNS[:1], device="cpu", jobs=1, partial=Partial(tmp_path))
    counted = Counted()
    assert_same_runs(train_all(counted, RUNS, device="cpu", jobs=1, partial=Partial(tmp_path)), runs)
    assert counted.groups == [[replica] for replica in RUNS[1:]]
    again = Counted()
    assert_same_runs(train_all(again, RUNS[::-1], device="cpu", jobs=1, partial=Partial(tmp_path)), runs[::-1])
    assert not again.groups


def test_fresh_partial_trains_all_again(runs, tmp_path):
    train_all(train_group, RUNS[:1], device="cpu", jobs=1, partial=Partial(tmp_path / "run"))
    counted = Counted()
    train_all(counted, RUNS[:1], device="cpu", jobs=1, partial=Partial(tmp_path / "run", fresh=True))
    assert len(counted.groups) == 1


def test_two_processes_keep_what_they_finish(runs, tmp_path):
    train_all(train_group, RUNS, device="cpu", jobs=2, partial=Partial(tmp_path))
    counted = Counted()
    assert_same_runs(train_all(counted, RUNS, device="cpu", jobs=1, partial=Partial(tmp_path)), runs)
    assert not counted.groups


def fragile_group(replicas):
    if replicas[0].seed < 0:
        raise ArithmeticError(f"seed {replicas[0].seed}")
    return {"seed": np.array([replica.seed for replica in replicas])}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_replica_that_fails_ends_the_run_with_its_error_but_not_the_next_run(jobs):
    with pytest.raises(ArithmeticError, match="seed -1"):
        train_all(fragile_group, [Replica(0), Replica(-1), Replica(1)], device="cpu", jobs=jobs)
    found = train_all(fragile_group, [Replica(3), Replica(4)], device="cpu", jobs=jobs)
    assert [run["seed"] for run in found] == [3, 4]


def test_number_of_threads_is_restored_after_a_failure():
    def fail():
        with cpu.threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise ArithmeticError

    before = torch.get_num_threads()
    with pytest.raises(ArithmeticError):
        fail()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_only_a_model_that_convolves_is_trained_by_onednn_and_the_caller_finds_it_as_before(kind):
    def measure(model):
        return {"onednn": torch.full((1,), torch.backends.mkldnn.enabled)}

    assert torch.backends.mkldnn.enabled
    assert fit(kind, [Replica(0)], measure=measure, epochs=1)["onednn"].tolist() == [[kind == "CNN"] * 2]
    assert torch.backends.mkldnn.enabled
    with pytest.raises(training.Diverged):
        fit(kind, [Replica(0, {"lr": 1e200})], measure=measure)
    assert torch.backends.mkldnn.enabled


def test_grid_joins_runs_in_row_major_order():
    axes = {"rate": (0.1, 0.2), "seed": (0, 1, 2)}
    pairs = [{"x": np.array([rate, seed])} for rate in axes["rate"] for seed in axes["seed"]]
    found = training.grid(axes, pairs)["x"]
    assert found.shape == (2, 3, 2)
    for i, rate in enumerate(axes["rate"]):
        for j, seed in enumerate(axes["seed"]):
            np.testing.assert_array_equal(found[i, j], [rate, seed])


def test_parameter_groups_share_memory_with_the_model_and_group_equal_options():
    model = build("MLP", RATES)
    before = copy.deepcopy(model)
    found, share = training.parameter_groups(model, RATES)
    assert [(len(g["params"][0]), g.get("lr")) for g in found] == [(1, None), (2, 0.02), (1, 0.1), (1, None)]
    sum(p.square().sum() for p in model.parameters()).backward()
    share()
    torch.optim.SGD(found, lr=0.25).step()
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        for r, rate in enumerate((0.25, 0.02, 0.02, 0.1, 0.25)):
            torch.testing.assert_close(p[r], q[r] * (1 - 2 * rate))


def test_the_one_group_of_equal_options_holds_the_parameters_themselves():
    model, replicas = build("MLP", RATES[:3]), [Replica(seed, {"lr": 0.1}) for seed in range(3)]
    (group,), _ = training.parameter_groups(model, replicas)
    assert group["lr"] == 0.1
    assert all(p is q for p, q in zip(group["params"], model.parameters(), strict=True))


def test_settings_reach_neither_the_optimizer_nor_training():
    noisy = [Replica(r.seed, r.options, {"probability": 0.1 * i, "lr": 9.0}) for i, r in enumerate(RATES)]
    plain, with_settings = (training.parameter_groups(build("MLP", RATES), replicas)[0] for replicas in (RATES, noisy))
    assert [g.keys() for g in with_settings] == [g.keys() for g in plain]
    assert [(len(g["params"][0]), g.get("lr")) for g in with_settings] == [
        (len(g["params"][0]), g.get("lr")) for g in plain
    ]
    assert_bitwise(fit("MLP", noisy, epochs=2), fit("MLP", RATES, epochs=2))


def settings_group(replicas):
    return {"beta": np.array([replica.settings["beta"] for replica in replicas])}


@pytest.mark.parametrize("jobs", [1, 2])
def test_finished_replicas_are_told_apart_by_settings_which_reach_every_process(jobs, tmp_path):
    replicas = [Replica(0, {"lr": 0.1}, {"beta": beta}) for beta in (0.5, 1.0, 2.0)]
    first = train_all(settings_group, replicas[:1], device="cpu", jobs=1, partial=Partial(tmp_path))
    assert [float(run["beta"]) for run in first] == [0.5]
    found = train_all(settings_group, replicas[::-1], device="cpu", jobs=jobs, partial=Partial(tmp_path))
    assert [float(run["beta"]) for run in found] == [2.0, 1.0, 0.5]


def smallest_product(replicas):
    """1e-30 × 1e-10 in float32, a denormal number, computed where replicas are trained; (R,)."""
    return {"product": (torch.full((len(replicas),), 1e-30) * torch.tensor(1e-10)).numpy()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_training_counts_denormal_numbers_as_zero_and_leaves_the_caller_as_it_was(jobs):
    (run,) = training.train_all(smallest_product, [Replica(0)], device="cpu", jobs=jobs)
    assert run["product"] == 0
    assert smallest_product([Replica(0)])["product"] > 0
