"""The networks on which the paper's statements are measured, and their data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from core.bounds import GELU_LIPSCHITZ
from lab.data import Images
from lab.models import CNN, MLP
from lab.replicas import Replica, generator, generators


def squared_relu(z: Tensor) -> Tensor:
    return functional.relu(z).square()


def identity(z: Tensor) -> Tensor:
    return z


@dataclass(frozen=True)
class Network:
    """What sets the networks apart.

    A homogeneous one has no biases and one output f. Its target y is 1 for classes of odd number
    and −1 for the others, centred; its loss is ½(f − y)², or, with labels y of 0 and 1, the binary
    cross-entropy of f. The others have an output a class.
    """

    activation: Callable[[Tensor], Tensor]
    rate: float  # of gradient descent with momentum
    degree: int = 0  # m of the activation, of a homogeneous network
    lipschitz: float = 0.0  # L of the activation, where Proposition 1 is measured
    binary: bool = False  # of one output: labels 0 and 1 under binary cross-entropy
    squared_loss: bool = False  # of classes: ½‖f − (y − ȳ)‖², y one-hot, in place of cross-entropy
    decay: float = 0.0  # of weights and biases, part of the loss: under it features collapse
    balanced: bool = False  # as many samples of each class as the rarest has
    fewer: int = 0  # hidden layers that it has less than the others, so that it trains


# the rates are those of a few tried at which digits and MNIST are fitted
NETWORKS = {
    "relu": Network(functional.relu, 0.05, degree=1, lipschitz=1.0),
    "squared_relu": Network(squared_relu, 0.01, degree=2, fewer=1),
    "relu_binary": Network(functional.relu, 0.05, degree=1, binary=True),
    "linear": Network(identity, 0.01, degree=1),
    "gelu": Network(functional.gelu, 0.1, lipschitz=GELU_LIPSCHITZ),
    "gelu_squared_loss": Network(functional.gelu, 0.1, squared_loss=True),
    "gelu_decay": Network(
        functional.gelu, 0.5, squared_loss=True, decay=5e-4, balanced=True, fewer=2
    ),
    "tanh": Network(torch.tanh, 0.1, lipschitz=1.0),
    "cnn": Network(functional.relu, 0.003),
}


@dataclass(frozen=True)
class Task:
    """What a network is trained on, all samples at once."""

    network: Network
    x: Tensor  # (N, …) float64
    labels: Tensor  # (N,)
    targets: Tensor  # (N, c) float64, centred; (N, 1) of 0 and 1 for a binary network

    def loss(self, outputs: Tensor) -> Tensor:
        """Mean loss of each replica: (R, N, c) -> (R,)."""
        if self.network.binary:
            labels = self.targets.expand_as(outputs)
            losses = functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
            return losses.mean((-2, -1))
        if self.network.degree or self.network.squared_loss:
            return (outputs - self.targets).square().sum(-1).mean(-1) / 2
        labels = self.labels.expand(outputs.shape[:2])
        return functional.cross_entropy(outputs.mT, labels, reduction="none").mean(-1)

    def accuracy(self, outputs: Tensor) -> Tensor:
        """Share of samples of the right sign, or class: (R, N, c) -> (R,)."""
        if self.network.binary:
            return ((outputs > 0) == (self.targets > 0)).double().mean((-2, -1))
        if self.network.degree:
            return (outputs * self.targets > 0).double().mean((-2, -1))
        return (outputs.argmax(-1) == self.labels).double().mean(-1)


def draw_samples(images: Images, number: int) -> tuple[Tensor, Tensor]:
    """Training samples, the same for every seed, scaled to float64, and their labels."""
    order = torch.randperm(len(images.x_train), generator=generator(0, "measurement"))
    chosen = order[:number].to(images.x_train.device)
    return images.scale(images.x_train[chosen], torch.float64), images.y_train[chosen]


def make_task(network: Network, images: Images, number: int) -> Task:
    """A network's task on so many samples, or a few less where classes are to be balanced."""
    x, labels = draw_samples(images, number)
    if network.balanced:
        members = [(labels == k).nonzero()[:, 0] for k in labels.unique()]
        fewest = min(map(len, members))
        chosen = torch.cat([rows[:fewest] for rows in members])
        x, labels = x[chosen], labels[chosen]
    if network.binary:
        return Task(network, x, labels, (labels[:, None] % 2).double())
    if network.degree:
        targets = 2 * (labels[:, None] % 2).double() - 1
    else:
        targets = functional.one_hot(labels, images.classes).double()
    return Task(network, x, labels, targets - targets.mean(0))


@torch.no_grad()
def build_mlp(task: Task, width: int, hidden: int, replicas: Sequence[Replica]) -> MLP:
    """The MLP d–width×hidden–c of a task in float64, before training."""
    network = task.network
    widths = (task.x[0].numel(), *[width] * hidden, task.targets.shape[1])
    model = MLP(widths, generators(replicas, "weights"), network.activation).to(task.x)
    h = task.x.expand(len(replicas), *task.x.shape).flatten(2)
    for layer in model.layers if network.degree else ():
        layer.bias.zero_().requires_grad_(False)
        if network.degree > 1:  # else responses vanish or explode from layer to layer
            layer.weight /= layer(h).square().mean((1, 2), keepdim=True).sqrt()
            h = network.activation(layer(h))
    return model


def build_cnn(task: Task, channels: int, replicas: Sequence[Replica]) -> CNN:
    """The CNN of a task in float64, before training."""
    outputs, weights = task.targets.shape[1], generators(replicas, "weights")
    return CNN(task.x.shape[1:], channels, outputs, weights).to(task.x)
