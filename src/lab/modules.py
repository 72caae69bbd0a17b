"""Small networks of one replica, plain torch modules; see `networks` for what `hidden` says."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS = 4  # of the transformer's attention
GROUPS = 4  # of the ResNet's normalisation


class CNN(nn.Module):
    """3×3 convolutions with ReLU, each followed by max-pooling while maps are wider than 4."""

    def __init__(self, shape: Sequence[int], classes: int, width: int, depth: int) -> None:
        super().__init__()
        channels, *sides = shape
        parts: list[nn.Module] = []
        self.hidden = []
        for layer in range(depth):
            if layer:
                self.hidden.append(f"parts.{len(parts)}")
            parts += [nn.Conv2d(width if layer else channels, width, 3, padding=1), nn.ReLU()]
            if min(sides) > 4:
                parts.append(nn.MaxPool2d(2))
                sides = [side // 2 for side in sides]
        self.parts = nn.Sequential(*parts)
        self.readout = nn.Linear(width * sides[0] * sides[1], classes)
        self.hidden.append("readout")

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, classes)."""
        return self.readout(self.parts(x).flatten(1))


class Block(nn.Module):
    """σ(h + f(h)), f two 3×3 convolutions with group normalisation (He et al., 2016; Wu, He, 2018).

    Groups, for batches would let a sample's features depend on others.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = GROUPS if width % GROUPS == 0 else 1
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width) for _ in range(2))

    def forward(self, h: Tensor) -> Tensor:
        first, second = zip(self.convolutions, self.norms, strict=True)
        inner = functional.relu(first[1](first[0](h)))
        return functional.relu(h + second[1](second[0](inner)))


class ResNet(nn.Module):
    """A convolution to a quarter of the image's sides, residual blocks, the mean over positions."""

    def __init__(self, shape: Sequence[int], classes: int, width: int, depth: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(shape[0], width, 3, stride=2, padding=1)
        pool = nn.MaxPool2d(2, ceil_mode=True)
        self.stem = nn.Sequential(convolution, nn.ReLU(), pool)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.readout = nn.Linear(width, classes)
        self.hidden = ("stem", *(f"blocks.{i}" for i in range(depth - 1)), "readout")

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, classes)."""
        h = self.stem(x)
        for block in self.blocks:
            h = block(h)
        return self.readout(h.mean((2, 3)))


class Attention(nn.Module):
    """Softmax attention among all tokens (N, T, d) of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projections = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        heads = self.projections(h).unflatten(-1, (3, HEADS, -1))  # (N, T, 3, heads, d/heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (N, heads, T, d/heads) each
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Patches of up to 4 × 4 pixels as tokens, pre-norm blocks, the mean over tokens.

    A vision transformer (Dosovitskiy et al., 2021) without a class token.
    """

    def __init__(self, shape: Sequence[int], classes: int, width: int, depth: int) -> None:
        super().__init__()
        channels, *sides = shape
        size = next(p for p in (4, 3, 2, 1) if not any(side % p for side in sides))
        tokens = sides[0] * sides[1] // size**2
        self.patches = nn.Conv2d(channels, width, size, stride=size)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.embedding = nn.Identity()  # whose output has a name
        self.blocks = nn.ModuleList(TransformerBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, classes)
        self.hidden = ("embedding", *(f"blocks.{i}" for i in range(depth - 1)), "readout")

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, classes)."""
        h = self.embedding(self.patches(x).flatten(2).mT + self.positions)  # (N, T, d)
        for block in self.blocks:
            h = block(h)
        return self.readout(self.norm(h).mean(1))


class TransformerBlock(nn.Module):
    """h + attention, then h + a network of one hidden layer of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = Attention(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attention(self.norms[0](h))
        return h + self.mlp(self.norms[1](h))


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "cnn": CNN,
    "resnet": ResNet,
    "transformer": Transformer,
}
