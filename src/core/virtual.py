"""The virtual update of a layer's features, and the Virtual Covariance.

One layer is Z = H Wᵀ + b with features H (N, d), one sample a row, weight W (m, d) and loss L; A = ∂L/∂H (N, d).
Gradient descent on the features themselves would move them to H̃ = H − γ A, whose uncentred covariance H̃ᵀH̃ (d, d)
is the Virtual Covariance. Gradient descent on the weights with rate η moves the Gram matrix G = WᵀW by

    ΔG = −η (AᵀH + HᵀA) + η² (∂L/∂W)ᵀ ∂L/∂W,

for Wᵀ ∂L/∂W = AᵀH: to first order along what the Virtual Covariance is moved by (paper, Virtual Covariance).

Both covariances are sums over samples: those of a whole set are the sums of its batches', where A is the gradient of
one loss, the set's.

A layer's own H, W and ∂L/∂Z as matrices come from `layer_features`, `layer_weight` and `layer_rows`, with a leading
axis for the groups of a convolution; the functions of H and A take that axis.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def virtual_update(features: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """H̃ = H − γ A (paper, virtual update).

    Args:
        features: H (…, N, d), any floating dtype; leading axes are a batch.
        gradient: A = ∂L/∂H (…, N, d).
        rate: γ.

    Returns:
        (…, N, d), in the wider dtype of the two.

    Raises:
        ValueError: features and gradient are not matrices of one shape.
    """
    _check(features, gradient)
    return features - rate * gradient


def virtual_covariance(features: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """VC = H̃ᵀ H̃ (paper, Virtual Covariance), uncentred and not divided by N.

    Args and raises as `virtual_update`.

    Returns:
        (…, d, d) float64, computed in float64 throughout.
    """
    _check(features, gradient)
    moved = virtual_update(features.to(torch.float64), gradient.to(torch.float64), rate)
    return moved.mT @ moved


def virtual_covariance_change(features: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """VC − HᵀH = −γ (AᵀH + HᵀA) + γ² AᵀA, computed so: it keeps its digits where γ is tiny.

    Args and raises as `virtual_update`.

    Returns:
        (…, d, d) float64, computed in float64 throughout.
    """
    _check(features, gradient)
    h, a = features.to(torch.float64), gradient.to(torch.float64)
    cross = a.mT @ h
    return rate**2 * (a.mT @ a) - rate * (cross + cross.mT)


def feature_learning_residual(features: Tensor, weight: Tensor, gradient: Tensor, weight_gradient: Tensor) -> float:
    """How far the Feature Learning Equation Wᵀ ∂L/∂W = Aᵀ H is from holding: ‖Wᵀ ∂L/∂W − AᵀH‖ / ‖AᵀH‖.

    An identity (paper, Feature Learning Equation): what is left is rounding, in the dtype that is given.

    Args:
        features: H (…, N, d), all samples that reach the weight.
        weight: W (…, m, d).
        gradient: A = ∂L/∂H (…, N, d), as ∂L/∂Z W.
        weight_gradient: ∂L/∂W (…, m, d).

    Returns:
        the relative Frobenius distance; zero where both sides are zero.
    """
    _check(features, gradient)
    right = gradient.mT @ features  # AᵀH (…, d, d)
    distance = (weight.mT @ weight_gradient - right).norm()
    return float(distance / right.norm()) if distance > 0 else 0.0


def layer_features(layer: nn.Module, inputs: Tensor) -> Tensor:
    """H of a layer's inputs: the rows that its weight multiplies.

    Args:
        layer: nn.Linear, or nn.Conv2d with any padding, padding mode, stride, dilation and groups.
        inputs: what the layer is given: (…, d), or images (N, c, H, W).

    Returns:
        Linear: (1, N, d) with all leading axes as samples. Conv2d: (groups, N·positions, c/groups·k·k), the patches.

    Raises:
        TypeError: another kind of layer.
    """
    _check_layer(layer)
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    patches = functional.unfold(padded, layer.kernel_size, layer.dilation, stride=layer.stride)  # (N, c·k·k, positions)
    return _rows(patches, layer.groups)


def layer_rows(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Z, or ∂L/∂Z, as rows that belong to those of `layer_features`.

    Args:
        layer: as for `layer_features`.
        outputs: of the layer's outputs' shape: (…, m), or (N, m, H', W').

    Returns:
        (1, N, m), or (groups, N·positions, m/groups).
    """
    _check_layer(layer)
    return outputs.flatten(0, -2)[None] if isinstance(layer, nn.Linear) else _rows(outputs.flatten(2), layer.groups)


def layer_weight(layer: nn.Module, weight: Tensor) -> Tensor:
    """W, or ∂L/∂W, of a layer with kernels as rows: (1, m, d), or (groups, m/groups, c/groups·k·k)."""
    _check_layer(layer)
    return weight.flatten(1).unflatten(0, (1 if isinstance(layer, nn.Linear) else layer.groups, -1))


def _rows(channels: Tensor, groups: int) -> Tensor:
    """(N, groups·d, positions) -> (groups, N·positions, d)."""
    return channels.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def _check_layer(layer: nn.Module) -> None:
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise TypeError(f"the theory's layers are Linear and Conv2d, not {type(layer).__name__}")


def _check(features: Tensor, gradient: Tensor) -> None:
    if features.shape != gradient.shape or features.ndim < 2:
        raise ValueError(
            "features and gradient must be matrices (…, N, d) of one shape, "
            f"not {tuple(features.shape)} and {tuple(gradient.shape)}"
        )
