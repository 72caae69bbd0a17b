"""What a batch and a model's outputs hold: the inputs, the targets, the prediction, the padding."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .targets import IGNORED, dense

LABELS = ("labels", "label", "label_ids")
WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


@dataclass(frozen=True)
class Batch:
    """What a model is called with, and what it is to predict."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    y: Tensor  # as `dense` returns it
    mask: Tensor | None = None  # (N, T) bool: False at the padding of inputs
    is_whole: bool = False  # a mapping with labels in it, as transformers' models take


def bare(model: nn.Module) -> nn.Module:
    """The module inside wrappers, which in their forward wait for other processes, or compile."""
    while True:
        if isinstance(model, WRAPPERS):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # torch.compile's
            model = inner
        else:
            return model


def read_batch(batch: Any, device: torch.device) -> Batch:
    """A batch on the device: (x, y), with x a tensor, several or keywords; or keywords with labels.

    Raises:
        ValueError: another form.
    """
    if isinstance(batch, Mapping):
        name = next((name for name in LABELS if name in batch), None)
        if name is None:
            raise ValueError(
                f"a batch with keys {', '.join(map(str, batch))} needs one of {LABELS}"
            )
        x, y = {key: value for key, value in batch.items() if key != name}, batch[name]
    elif isinstance(batch, Sequence) and len(batch) == 2:
        x, y = batch
    else:
        what = f"{len(batch)} parts" if isinstance(batch, Sequence) else type(batch).__name__
        raise ValueError(
            f"a batch is (x, y), or a mapping with 'labels', not {what}: several inputs are "
            "((x1, x2), y)"
        )
    x, y = _moved(x, device), _moved(dense(y), device)
    if isinstance(x, Mapping):
        return Batch((), x, y, _mask(x.get("attention_mask")), isinstance(batch, Mapping))
    return Batch(x if isinstance(x, tuple | list) else (x,), {}, y)


def _moved(x: Any, device: torch.device) -> Any:
    if isinstance(x, Mapping):
        return {key: _moved(value, device) for key, value in x.items()}
    if isinstance(x, tuple | list) and any(isinstance(value, Tensor) for value in x):
        return tuple(_moved(value, device) for value in x)
    if not isinstance(x, Tensor):
        return torch.as_tensor(x, device=device) if hasattr(x, "__array__") else x
    x = x.to(device)
    return x.clone() if x.is_inference() else x  # autograd may not save what inference mode made


def _mask(mask: Any) -> Tensor | None:
    """None where there is no padding."""
    if not isinstance(mask, Tensor) or mask.ndim != 2 or bool((mask != 0).all()):
        return None
    return mask != 0


def prediction(outputs: Any, output: Callable[[Any], Tensor] | None) -> Tensor:
    """The tensor of a model's outputs that predicts: itself, its `logits`, or the first of several.

    Raises:
        ValueError: none of these.
    """
    if output is not None:
        tensor = output(outputs)
    elif isinstance(outputs, Mapping) and "logits" in outputs:
        tensor = outputs["logits"]
    elif isinstance(outputs, Mapping):
        keys = ", ".join(map(str, outputs))
        raise ValueError(f"outputs {keys}: say which one predicts, as output=lambda o: o['…']")
    elif hasattr(outputs, "logits"):
        tensor = outputs.logits
    else:
        tensor = outputs[0] if isinstance(outputs, tuple | list) and outputs else outputs
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = f"{tensor.dtype} tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"the prediction is a {kind}: say with output= which tensor predicts")
    return tensor


def with_decoder(model: nn.Module, batch: Batch) -> Batch:
    """A batch with the inputs of the model's decoder, where it has one that reads the labels."""
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if prepare is None or batch.y.ndim != 2 or "decoder_input_ids" in batch.kwargs:
        return batch
    return replace(batch, kwargs={**batch.kwargs, "decoder_input_ids": prepare(labels=batch.y)})


def token_labels(batch: Batch, shifts: bool) -> Tensor:
    """Labels of tokens (N, T), those of padding ignored, each at the token that predicts it."""
    has_decoder = "decoder_input_ids" in batch.kwargs
    mask = _mask(batch.kwargs.get("decoder_attention_mask")) if has_decoder else batch.mask
    is_padding = torch.zeros_like(batch.y, dtype=torch.bool)
    if mask is not None and mask.shape == batch.y.shape:
        is_padding = ~mask
    y = batch.y.masked_fill(is_padding, IGNORED)
    if not shifts:
        return y
    return functional.pad(y[:, 1:], (0, 1), value=IGNORED).masked_fill(is_padding, IGNORED)


@torch.no_grad()
def shifts_labels(model: nn.Module, batch: Batch) -> bool:
    """Whether a model's own loss compares the prediction at each token with the next one's label.

    Causal language models of transformers do. The model is asked: its loss with a label for the
    first tokens alone is then its loss with none.
    """
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if batch.y.shape[1] < 2 or not ("labels" in parameters or takes_any):
        return False
    none = torch.full_like(batch.y, IGNORED)
    first = none.clone()
    first[:, 0] = 0
    losses = [_loss(model(**batch.kwargs, labels=y)) for y in (none, first)]
    if not all(isinstance(loss, Tensor) and loss.numel() == 1 for loss in losses):
        return False
    return torch.equal(*(loss.nan_to_num() for loss in losses))


def _loss(outputs: Any) -> Any:
    """The loss of a model that was given labels, which comes first in a tuple."""
    if isinstance(outputs, tuple):
        return outputs[0]
    return outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
