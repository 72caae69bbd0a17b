"""A training loop that is measured ends with the bits of one that is not."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from core.callback import MeasureEvery
from core.gram import cosine
from core.measure import measure
from core.virtual import virtual_covariance_shift


def samples() -> TensorDataset:
    g = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(120, 1, 6, 6, generator=g), torch.arange(120) % 3)


def trained(every: int | None, epochs: int = 5) -> tuple[nn.Module, Tensor, MeasureEvery | None]:
    """Model, torch's next random numbers and what was measured; all that can draw is there."""
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*first, nn.Dropout(), nn.Linear(64, 8), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    loader = DataLoader(samples(), 16, shuffle=True)
    watch = MeasureEvery(every, model, loader) if every else None
    for epoch in range(epochs):
        for i, (x, y) in enumerate(loader):
            functional.cross_entropy(model(x), y).backward()
            if watch and i == 1:
                watch(epoch)  # in the middle of an epoch, with gradients about
            optimizer.step()
            optimizer.zero_grad()
    return model, torch.rand(3), watch


@pytest.mark.parametrize("every", [1, 2])
def test_training_is_bit_identical(every: int) -> None:
    (plain, drawn, _), (watched, drawn_too, watch) = trained(None), trained(every)
    assert watch is not None
    assert list(watch.tables) == list(range(0, 5, every))
    assert torch.equal(drawn, drawn_too)
    assert watched.training
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


class Shuffled(Sampler):
    """Draws its order from a generator of another library, and counts its epochs."""

    def __init__(self, n: int, kind: str) -> None:
        self.n, self.kind, self.epoch = n, kind, 0
        self.generator = np.random.default_rng(0) if kind == "NumPy" else random.Random(0)

    def __len__(self) -> int:
        return self.n

    def __iter__(self):
        self.epoch += 1
        order = list(range(self.n))
        if self.kind == "epoch":  # as accelerate's samplers
            random.Random(self.epoch).shuffle(order)
        else:
            self.generator.shuffle(order)
        return iter(order)


class Noisy(TensorDataset):
    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self.g = torch.Generator().manual_seed(3)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x + torch.randn(x.shape, generator=self.g), y


class Wrapping:
    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


def own() -> torch.Generator:
    return torch.Generator().manual_seed(5)


LOADERS = {
    "its own generator": lambda d: DataLoader(d, 16, shuffle=True, generator=own()),
    "its sampler's": lambda d: DataLoader(d, 16, sampler=RandomSampler(d, generator=own())),
    "with replacement": lambda d: DataLoader(
        d, 16, sampler=RandomSampler(d, True, 90, generator=own())
    ),
    "weighted": lambda d: DataLoader(
        d, 16, sampler=WeightedRandomSampler(torch.ones(120), 100, generator=own())
    ),
    "a batch sampler's": lambda d: DataLoader(
        d, batch_sampler=BatchSampler(RandomSampler(d, generator=own()), 16, True)
    ),
    "a subset's": lambda d: DataLoader(Subset(Noisy(*d.tensors), range(100)), 16),
    "a data set's": lambda d: DataLoader(Noisy(*d.tensors), 16, shuffle=True, generator=own()),
    "NumPy's": lambda d: DataLoader(d, 16, sampler=Shuffled(120, "NumPy")),
    "Python's": lambda d: DataLoader(d, 16, sampler=Shuffled(120, "Python")),
    "an epoch": lambda d: DataLoader(d, 16, sampler=Shuffled(120, "epoch")),
    "accelerate's": lambda d: prepare_data_loader(
        DataLoader(d, 16, shuffle=True), use_seedable_sampler=True
    ),
    "inside of another": lambda d: Wrapping(DataLoader(d, 16, shuffle=True, generator=own())),
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_a_loader_that_training_shares_draws_the_same_batches(loader) -> None:
    def drawn(watched: bool) -> list[Tensor]:
        torch.manual_seed(0)
        batches = loader(samples())
        watch = MeasureEvery(1, nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), batches)
        seen = []
        for epoch in range(3):
            if watched:
                watch(epoch)
            for i, (x, _) in enumerate(batches):
                seen.append(x)
                if watched and i == 2 and epoch == 1:  # in the middle of an epoch
                    watch(3)
        return seen

    plain, watched = drawn(False), drawn(True)
    assert len({x.sum() for x in plain}) > 8  # another order in every epoch
    assert all(map(torch.equal, plain, watched))


def test_what_raises_puts_a_loader_back_too() -> None:
    g = own()
    loader, before = DataLoader(samples(), 16, shuffle=True, generator=g), g.get_state()
    with pytest.raises(ValueError, match="and classes"):
        measure(nn.Linear(6, 3), loader)
    assert torch.equal(g.get_state(), before)


def test_a_table_is_that_of_the_model_as_it_then_is() -> None:
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), DataLoader(samples(), 7)
    watch = MeasureEvery(2, model, batches, names="1")
    wanted = {}
    for epoch in range(4):
        watch(epoch)
        wanted[epoch] = replace(measure(model, batches)[0], cosine_step=0.0)
        nn.init.normal_(model[1].weight)
    measured = {epoch: replace(row, cosine_step=0.0) for epoch, (row,) in watch.tables.items()}
    assert str(measured) == str({epoch: wanted[epoch] for epoch in (0, 2)})  # nan is nan
    assert wanted[0] != wanted[2]


def gram(model: nn.Sequential) -> Tensor:
    return (model[1].weight.mT @ model[1].weight).detach()


@pytest.mark.parametrize("width", [3, 20], ids=["wide weight", "tall weight"])
def test_the_step_is_compared_with_the_shift_of_the_table_before(width: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.GELU(), nn.Linear(width, 3))
    model.double()
    x, y = torch.randn(60, 4, 4, dtype=torch.float64), torch.arange(60) % 3
    watch = MeasureEvery(1, model, [(x[:25], y[:25]), (x[25:], y[25:])])
    watch(0)
    assert math.isnan(watch.tables[0][0].cosine_step)
    before = gram(model)
    z = model[1](x.flatten(1))
    loss = functional.cross_entropy(model[2:](z), y, reduction="sum")
    dz, *gradients = torch.autograd.grad(loss, [z, *model.parameters()])
    a = dz @ model[1].weight.detach()  # ∂L/∂H
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient + 0.01 * torch.randn_like(parameter)
    watch(1)
    shift = virtual_covariance_shift(x.flatten(1), a, 1e-9)
    expected = cosine(gram(model) - before, shift)
    assert abs(expected) < 0.99  # a long step, and not along the gradient alone
    assert watch.tables[1][0].cosine_step == pytest.approx(expected, abs=1e-6)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="every must be 1 or more"):
        MeasureEvery(0, nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="only once"):
        MeasureEvery(1, nn.Linear(2, 2), iter([]))
