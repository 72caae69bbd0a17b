"""A training loop that is measured ends with the bits of one that is not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from core.callback import MeasureEvery
from core.measure import measure


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


def test_a_table_is_that_of_the_model_as_it_then_is() -> None:
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), DataLoader(samples(), 7)
    watch = MeasureEvery(2, model, batches, names="1")
    wanted = {}
    for epoch in range(4):
        watch(epoch)
        wanted[epoch] = str(measure(model, batches))
        nn.init.normal_(model[1].weight)
    measured = {epoch: str(table) for epoch, table in watch.tables.items()}
    assert measured == {epoch: wanted[epoch] for epoch in (0, 2)}
    assert wanted[0] != wanted[2]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="every must be 1 or more"):
        MeasureEvery(0, nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="only once"):
        MeasureEvery(1, nn.Linear(2, 2), iter([]))
