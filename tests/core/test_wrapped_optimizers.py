"""Gram whitening of optimizers that accelerate and transformers' Trainer have wrapped."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from cases import draw
from core.gram import GramWhitening, gram_preserving_update
from oracles import difference

RATE = 0.1


@pytest.fixture(autouse=True)
def _no_state_is_left():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def loss(weight, batch):
    return (draw(6, 5, seed=batch, dtype=weight.dtype) @ weight.mT).tanh().square().mean()


def by_hand(weight, batches):
    """A whitened step of SGD on the mean loss of the batches."""
    (gradient,) = torch.autograd.grad(sum(loss(weight, b) for b in batches) / len(batches), weight)
    return gram_preserving_update(weight.detach(), weight.detach() - RATE * gradient)


@pytest.mark.parametrize("attach", ["before", "after", "after twice"])
def test_whitening_reaches_an_accelerated_optimizer_attached_before_it_is_wrapped_or_after(attach):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    layer = nn.Linear(5, 4, bias=False).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)
    if attach == "before":
        GramWhitening(optimizer)
    optimizer = AcceleratedOptimizer(optimizer)
    if attach == "after twice":
        optimizer = AcceleratedOptimizer(optimizer)
    if attach != "before":
        GramWhitening(optimizer)
    for batches in ((0, 1), (2, 3)):
        expected = by_hand(layer.weight, batches)
        for batch in batches:
            before = layer.weight.detach().clone()
            with accelerator.accumulate(layer):
                accelerator.backward(loss(layer.weight, batch))
                optimizer.step()
                optimizer.zero_grad()
            if batch == batches[0]:  # only collected
                assert torch.equal(layer.weight, before)
        assert difference(layer.weight, expected) < 1e-12
        assert difference(layer.weight, before) > 1e-3


class Regression(nn.Module):
    """What Trainer trains: rows of `x`, and a loss."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4, bias=False)

    def forward(self, x, labels):
        return {"loss": (self.layer(x).tanh() - labels).square().mean()}


class Whiten(TrainerCallback):
    def on_train_begin(self, *_, optimizer, **__):
        GramWhitening(optimizer)


def test_whitening_reaches_the_optimizer_of_a_trainer(tmp_path):
    model = Regression()
    before = model.layer.weight.detach().clone()
    rows = [{"x": x, "labels": torch.zeros(4)} for x in draw(6, 5, dtype=torch.float32)]
    arguments = TrainingArguments(
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=6,
        max_grad_norm=0.0,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    expected = by_hand(model.layer.weight, [0])
    sgd = torch.optim.SGD(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.ConstantLR(sgd, factor=1.0)
    trainer = Trainer(
        model, arguments, train_dataset=rows, optimizers=(sgd, schedule), callbacks=[Whiten()]
    )
    trainer.train()
    assert difference(model.layer.weight, expected) < 1e-6
    assert difference(model.layer.weight, before) > 1e-3
