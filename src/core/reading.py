"""What a batch and a model's outputs hold: the inputs, the targets, the prediction, the padding."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .batch import WITHOUT_FLOAT64
from .targets import IGNORED, dense

LABELS = ("labels", "label", "label_ids")
DECODER = {"decoder_input_ids", "decoder_inputs_embeds"}
WAYS = 4  # in which a label is changed, to see whether a loss counts it
WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


@dataclass(frozen=True)
class Batch:
    """What a model is called with, and what it is to predict."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    y: Tensor  # as `dense` returns it
    mask: Tensor | None = None  # (N, T) bool: False at the padding of inputs
    is_whole: bool = False  # a mapping with labels in it, as transformers' models take

    @property
    def has_decoder(self) -> bool:
        """Whether the labels are those of a decoder with inputs of its own."""
        return bool((DECODER | {"labels"}) & self.kwargs.keys())


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
    y = dense(y)
    if device.type in WITHOUT_FLOAT64 and y.dtype == torch.float64:
        y = y.float()
    x, y = _moved(x, device), _moved(y, device)
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

    A loss before these is passed over.

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
        several = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
        if len(several) > 1 and isinstance(several[0], Tensor) and not several[0].ndim:
            del several[0]
        tensor = several[0] if several else outputs
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = f"{tensor.dtype} tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"the prediction is a {kind}: say with output= which tensor predicts")
    return tensor


def with_decoder(model: nn.Module, batch: Batch) -> Batch:
    """A batch with the inputs of the model's decoder, where it has one that reads the labels.

    Or with the labels themselves, of which some models make these inputs in their forward alone.
    """
    if batch.y.ndim != 2 or DECODER & batch.kwargs.keys():
        return batch
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if prepare is not None:
        return replace(batch, kwargs={**batch.kwargs, "decoder_input_ids": prepare(labels=batch.y)})
    has_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if has_decoder and batch.is_whole and not batch.y.is_floating_point():
        return replace(batch, kwargs={**batch.kwargs, "labels": batch.y})
    return batch


def token_labels(batch: Batch, shifts: bool) -> Tensor:
    """Labels of tokens (N, T), those of padding ignored, each at the token that predicts it."""
    mask = batch.mask
    if batch.has_decoder:
        mask = _mask(batch.kwargs.get("decoder_attention_mask"))
    is_padding = torch.zeros_like(batch.y, dtype=torch.bool)
    if mask is not None and mask.shape == batch.y.shape:
        is_padding = ~mask
    y = batch.y.masked_fill(is_padding, IGNORED)
    if not shifts:
        return y
    return functional.pad(y[:, 1:], (0, 1), value=IGNORED).masked_fill(is_padding, IGNORED)


@torch.no_grad()
def shifts_labels(
    model: nn.Module, batch: Batch, classes: int, output: Callable[[Any], Tensor] | None = None
) -> tuple[bool, str]:
    """Whether a model's own loss compares the prediction at each token with the next one's label.

    Causal language models of transformers do. The model is asked, by its loss with the batch's own
    labels and with others: no label of a first token then changes it, and one of a second does; but
    what is predicted at the first is read.

    Args:
        model: is called with labels of the batch, and with others of its classes.
        batch: of tokens (N, T), with a label or more to be counted.
        classes: how many the model predicts.
        output: see `prediction`.

    Returns:
        whether it does, and where its loss could not be asked, why not.
    """
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if batch.y.shape[1] < 2 or not ("labels" in parameters or takes_any):
        return False, ""
    if "labels" in batch.kwargs:  # its decoder's inputs are what is shifted
        return False, ""

    def loss_with(y: Tensor) -> Tensor | None:
        return _loss(model(**batch.kwargs, labels=y))

    def counts(token: int) -> bool:
        """Whether any label of this token changes the loss."""
        return any(loss_with(y) != loss for y in _other_labels(batch.y, classes, token))

    try:
        loss = loss_with(batch.y)
        if loss is None:
            return False, ""
        if counts(0):
            if loss_with(batch.y) != loss:
                raise ValueError("it is another at every call")
            return False, ""
        return counts(1) and _reads_first(model, batch, output), ""
    except Exception as error:  # whatever a model's own loss may raise
        reason = f"{type(error).__name__}: {str(error).split(chr(10))[0]}"
        return False, f"the model's own loss does not say whether it shifts them ({reason})"


def _other_labels(y: Tensor, classes: int, token: int) -> Iterator[Tensor]:
    """Labels (N, T) like y with other classes at one token, in several ways.

    They are classes of the batch, for a loss may know no others; every sample is given each. Where
    there is one alone, the next is the other.
    """
    present = y[y != IGNORED].unique()
    if len(present) < 2:
        present = torch.cat([present, (present + 1) % classes])
    present = present[:: -(-len(present) // WAYS)]  # of many, some
    turns = torch.arange(len(y), device=y.device)
    for way in range(len(present)):
        changed = y.clone()
        changed[:, token] = present[(turns + way) % len(present)]
        yield changed


@torch.enable_grad()
def _reads_first(model: nn.Module, batch: Batch, output: Callable[[Any], Tensor] | None) -> bool:
    """Whether a model's own loss depends on its predictions at first tokens, or may."""
    outputs = model(**batch.kwargs, labels=batch.y)
    loss, predicted = _loss(outputs), prediction(outputs, output)
    if loss is None or not loss.requires_grad or not predicted.requires_grad:
        return True
    (gradient,) = torch.autograd.grad(loss.sum(), predicted, allow_unused=True)
    return gradient is None or bool(gradient[:, 0].any())


def _loss(outputs: Any) -> Tensor | None:
    """The loss of a model that was given labels, which comes first in a tuple; None without one.

    Raises:
        ValueError: it is no number.
    """
    if isinstance(outputs, tuple):
        loss = outputs[0]
    else:
        loss = (
            outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
        )
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return None
    if not bool(loss.isfinite()):
        raise ValueError(f"it is {float(loss)}")
    return loss
