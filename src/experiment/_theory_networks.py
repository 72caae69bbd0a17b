"""The networks that `theories.py` trains: plain torch modules, one a seed."""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lab.data import Images
from lab.modules import CNN, ResNet, TransformerBlock
from lab.replicas import generator


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and how it is trained."""

    kind: Literal["mlp", "cnn", "resnet", "addition_mlp", "addition_transformer"]
    width: int  # units, channels, or numbers a token
    depth: int  # hidden layers, or blocks
    optimizer: Literal["SGD", "Adam", "AdamW"]
    learning_rate: float
    momentum: float = 0.0  # of SGD
    weight_decay: float = 0.0  # λ of L + λ‖W‖²/2, but for AdamW
    epochs: int = 100
    batch_size: int = 64
    random_share: float = 0.0  # of labels that are drawn anew, in training and test set
    measured: int = 10_000  # training samples that are measured, drawn once for all runs

    @property
    def is_addition(self) -> bool:
        return self.kind.startswith("addition")

    @property
    def is_convolutional(self) -> bool:
        return self.kind in ("cnn", "resnet")


_SGD = Network(kind="mlp", width=256, depth=4, optimizer="SGD", learning_rate=0.005, momentum=0.8)
_ADAM = Network(kind="mlp", width=256, depth=4, optimizer="Adam", learning_rate=0.0005)
_LABELS = dataclasses.replace(_SGD, depth=3, momentum=0.95, epochs=200)
_CNN = Network(
    kind="cnn",
    width=32,
    depth=4,
    optimizer="Adam",
    learning_rate=0.0005,
    epochs=12,
    measured=2000,  # each has up to 1,024 positions
)
_MODULAR = Network(
    kind="addition_mlp",
    width=256,
    depth=3,
    optimizer="AdamW",
    learning_rate=0.001,
    weight_decay=0.5,
    epochs=500,
    batch_size=32,
)
NETWORKS = {
    "sgd": _SGD,  # Figure 4's
    "sgd_1e-4": dataclasses.replace(_SGD, weight_decay=1e-4),
    "sgd_5e-4": dataclasses.replace(_SGD, weight_decay=5e-4),
    "adam": _ADAM,  # Figure 9's
    "adam_1e-4": dataclasses.replace(_ADAM, weight_decay=1e-4),
    "adam_5e-4": dataclasses.replace(_ADAM, weight_decay=5e-4),
    "true_labels": _LABELS,  # Figure 12's at p = 0
    "random_labels": dataclasses.replace(_LABELS, random_share=1.0),  # and at p = 1
    "cnn": _CNN,
    "resnet": dataclasses.replace(_CNN, kind="resnet"),
    "grokking": _MODULAR,  # Figure 13's
    "transformer": dataclasses.replace(
        _MODULAR,
        kind="addition_transformer",
        width=128,
        depth=1,
        weight_decay=0.3,
        epochs=300,
        batch_size=128,
    ),
}


class AdditionTransformer(nn.Module):
    """Two numbers as tokens, blocks, and a read-out of the tokens' mean."""

    def __init__(self, modulus: int, width: int, depth: int) -> None:
        super().__init__()
        self.modulus = modulus
        self.embedding = nn.Linear(modulus, width)
        self.positions = nn.Parameter(0.02 * torch.randn(2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width) for _ in range(depth)))
        self.norm, self.readout = nn.LayerNorm(width), nn.Linear(width, modulus)

    def forward(self, x: Tensor) -> Tensor:
        """Two one-hot vectors side by side (N, 2·modulus) -> logits (N, modulus)."""
        tokens = self.embedding(x.unflatten(1, (2, self.modulus))) + self.positions
        return self.readout(self.norm(self.blocks(tokens)).mean(1))


def build(network: Network, images: Images, seed: int) -> nn.Module:
    """The network of one seed, with torch's own initial weights; Figure 13's in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        if network.kind == "addition_transformer":
            return AdditionTransformer(images.classes, network.width, network.depth)
        if network.is_convolutional:
            kind = {"cnn": CNN, "resnet": ResNet}[network.kind]
            return kind(images.shape, images.classes, network.width, network.depth)
        activation = nn.ReLU if network.is_addition else nn.GELU
        widths = (images.x_train[0].numel(), *[network.width] * network.depth, images.classes)
        layers: list[nn.Module] = [nn.Flatten()]
        for d, m in itertools.pairwise(widths):
            layers += [nn.Linear(d, m), activation()]
        model = nn.Sequential(*layers[:-1])
        return model.double() if network.is_addition else model


def make_optimizer(network: Network, model: nn.Module) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": network.learning_rate, "weight_decay": network.weight_decay}
    if network.optimizer == "SGD":
        options["momentum"] = network.momentum
    if network.optimizer == "AdamW":
        options["betas"] = (0.9, 0.98)  # Figure 13's
    return getattr(torch.optim, network.optimizer)(model.parameters(), **options)


def gram_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and convolutions by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
