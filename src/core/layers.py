"""A layer's features H, outputs Z and weight W as matrices, for Linear and Conv2d.

A convolution is a linear layer on unfolded patches (paper, appendix C.1): its kernels are rows of
W, the patches rows of H, with one matrix for each group. All three have the groups as their first
axis, one for a Linear, so that Z = H Wᵀ + b group by group.
"""

from torch import Tensor, nn
from torch.nn import functional


def layer_features(layer: nn.Module, inputs: Tensor) -> Tensor:
    """H: the rows that the layer's weight multiplies.

    Args:
        layer: nn.Linear, or nn.Conv2d with any padding, padding mode, stride, dilation and groups.
        inputs: what the layer is given: (…, d), or images (N, c, H, W).

    Returns:
        (1, N, d) with all leading axes as samples, or the patches (groups, N·positions,
        c/groups·k·k).

    Raises:
        TypeError: another kind of layer.
    """
    _check_kind(layer)
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    patches = functional.unfold(padded, layer.kernel_size, layer.dilation, stride=layer.stride)
    return _position_rows(patches, layer.groups)


def layer_rows(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Z, or ∂L/∂Z, as rows that belong to those of `layer_features`.

    Args:
        layer: as for `layer_features`.
        outputs: of the shape of the layer's outputs: (…, m), or (N, m, H', W').

    Returns:
        (1, N, m), or (groups, N·positions, m/groups).
    """
    _check_kind(layer)
    if isinstance(layer, nn.Linear):
        return outputs.flatten(0, -2)[None]
    return _position_rows(outputs.flatten(2), layer.groups)


def layer_weight(layer: nn.Module, weight: Tensor) -> Tensor:
    """W, or ∂L/∂W, with kernels as rows: (1, m, d), or (groups, m/groups, c/groups·k·k)."""
    _check_kind(layer)
    return weight.flatten(1).unflatten(0, (1 if isinstance(layer, nn.Linear) else layer.groups, -1))


def _position_rows(channels: Tensor, groups: int) -> Tensor:
    """(N, groups·d, positions) -> (groups, N·positions, d)."""
    return channels.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def _check_kind(layer: nn.Module) -> None:
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise TypeError(f"the theory's layers are Linear and Conv2d, not {type(layer).__name__}")
