"""The networks of the figures, with a leading replica axis R on every parameter.

All R replicas are trained as one batch of matrix products; replica r computes what it would compute
alone. Weights are drawn as torch.nn.Linear and torch.nn.Conv2d draw theirs, uniform in ±1/√fan_in,
from one generator a replica.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab import memory
from lab.networks import Reading


def uniform_fan_in(
    shape: Sequence[int], fan_in: int, generators: Sequence[torch.Generator]
) -> nn.Parameter:
    """Parameter (R, *shape), entries uniform in ±1/√fan_in, replica r drawn by generator r."""
    bound = 1 / math.sqrt(fan_in)
    draws = [torch.empty(*shape).uniform_(-bound, bound, generator=g) for g in generators]
    return nn.Parameter(torch.stack(draws))


class Linear(nn.Module):
    """R linear layers z = h Wᵀ + b: (R, N, d) -> (R, N, m)."""

    def __init__(self, d: int, m: int, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.weight = uniform_fan_in((m, d), d, generators)  # (R, m, d)
        self.bias = uniform_fan_in((m,), d, generators)  # (R, m)

    def forward(self, h: Tensor) -> Tensor:
        # on a CPU; here autograd forms ∂L/∂W row by row, a batched product's is transposed
        if h.shape[0] == 1:
            return functional.linear(h, self.weight.squeeze(0), self.bias.squeeze(0))
        return torch.baddbmm(self.bias[:, None], h, self.weight.mT)


class Conv3x3(nn.Module):
    """R convolutions with 3×3 kernels and padding 1: (R, N, c, H, W) -> (R, N, m, H, W)."""

    def __init__(self, c: int, m: int, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.weight = uniform_fan_in((m, c, 3, 3), 9 * c, generators)  # (R, m, c, 3, 3)
        self.bias = uniform_fan_in((m,), 9 * c, generators)  # (R, m)

    def forward(self, h: Tensor) -> Tensor:
        replicas = h.shape[0]
        # (N, R·c, H, W): one group of channels a replica
        channels = h.transpose(0, 1).flatten(1, 2)
        z = functional.conv2d(
            channels, self.weight.flatten(0, 1), self.bias.flatten(), padding=1, groups=replicas
        )
        return z.unflatten(1, (replicas, -1)).transpose(0, 1)


class MLP(nn.Module):
    """MLP widths[0]–…–widths[-1]: Linear layers with biases, an activation between them."""

    def __init__(
        self,
        widths: Sequence[int],
        generators: Sequence[torch.Generator],
        activation: Callable[[Tensor], Tensor] = functional.gelu,
    ) -> None:
        super().__init__()
        memory.check_training(len(generators) * sum((d + 1) * m for d, m in pairwise(widths)))
        self.layers = nn.ModuleList(Linear(d, m, generators) for d, m in pairwise(widths))
        self.activation = activation

    def hidden(self, x: Tensor) -> list[Tensor]:
        """Outputs of the hidden layers after their activations, each (R, N, width)."""
        outputs = []
        h = x.flatten(2)  # (R, N, d)
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
            outputs.append(h)
        return outputs

    def with_hidden(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The same, and the logits (R, N, c)."""
        hidden = self.hidden(x)
        return hidden, self.layers[-1](hidden[-1])

    @property
    def readers(self) -> list[Tensor]:
        """W (R, m, d) that reads the images and each hidden layer."""
        return [layer.weight for layer in self.layers]

    def products(self, x: Tensor) -> tuple[list[Reading], Tensor]:
        """What each of the readers makes of its inputs, and the logits (R, N, c)."""
        readings, h = [], x.flatten(2)
        for layer in self.layers:
            z = layer(h)
            readings.append(Reading(h.detach(), layer.weight.detach(), [z]))
            h = self.activation(z)
        return readings, z

    def forward(self, x: Tensor) -> Tensor:
        """Images (R, N, …) -> logits (R, N, c)."""
        return self.with_hidden(x)[1]


class CNN(nn.Module):
    """Figure 6: three 3×3 convolutions, max-pooling after the first and third, one Linear."""

    def __init__(
        self,
        image: Sequence[int],
        channels: int,
        classes: int,
        generators: Sequence[torch.Generator],
    ) -> None:
        super().__init__()
        c, height, width = image
        memory.check_training(len(generators) * 9 * channels * (c + 2 * channels))
        self.convolutions = nn.ModuleList(
            [
                Conv3x3(c, channels, generators),
                Conv3x3(channels, channels, generators),
                Conv3x3(channels, channels, generators),
            ]
        )
        self.readout = Linear(channels * (height // 4) * (width // 4), classes, generators)

    def forward(self, x: Tensor) -> Tensor:
        """Images (R, N, c, H, W) -> logits (R, N, classes)."""
        first, second, third = self.convolutions
        h = functional.relu(self._pool(first(x)))
        h = functional.relu(second(h))
        h = functional.relu(self._pool(third(h)))
        return self.readout(h.flatten(2))

    @staticmethod
    def _pool(h: Tensor) -> Tensor:
        return functional.max_pool2d(h.flatten(0, 1), 2).unflatten(0, h.shape[:2])


class VAE(nn.Module):
    """Variational autoencoder d–hidden×2–(μ, log σ²), latent–hidden×2–d (Kingma, Welling, 2014)."""

    def __init__(
        self, d: int, hidden: int, latent: int, generators: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        sizes = 2 * hidden * (d + hidden) + 3 * hidden * latent  # of the weights
        memory.check_training(len(generators) * sizes)
        self.encoder = MLP((d, hidden, hidden, 2 * latent), generators)
        self.decoder = MLP((latent, hidden, hidden, d), generators)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (R, N, …) -> μ and log σ², each (R, N, latent)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Latents (R, N, latent) -> pixels' logits (R, N, d); their sigmoid is the image."""
        return self.decoder(z)
