"""What the theory says of a layer, for every linear layer and convolution of any torch model.

    table = measure(model, batches)
    print(table)

Of each layer Z = H Wᵀ + b, over all samples, in one pass: Target Linearity of its inputs and
outputs, the surrogate, the spectrum of its Gram matrix G = WᵀW, the residual of the Feature
Learning Equation, the cosines of G with the Virtual Covariance Shift and with the average gradient
outer product, linear CKA with the targets, Neural Collapse, and FACT where training has a decay.
Where asked, what other theories expect of a layer (theories.py), and held-out Target Linearity.

reading.py reads batches, targets.py their targets; calls.py records the layers' calls, layers.py
reads them as matrices, reduction.py makes rows of features, rows.py sees whose they are;
backward.py adds gradients, layer_sums.py turns sums into measures.
"""

import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .backward import add_gradients, add_output_gradients, default_loss, judge_rows
from .calls import recorded
from .collector import SIDES, Collector, is_layer, other_weights
from .fact import check_decay
from .layer_sums import MOST_KEPT
from .layer_table import LayerTable
from .placement import check_kind, execution_device
from .reading import Batch, bare, prediction, read_batch, shifts_labels, token_labels, with_decoder
from .reduction import LARGEST, Reduction, check
from .targets import IGNORED, Classes, Targets, align
from .theories import check_theories
from .untouched import own_precision, unread, untouched

Loss = Callable[[Tensor, Tensor], Tensor]
Moment = Mapping[str, tuple[Tensor, Tensor]]  # by layer: W and Σ ∂L/∂W (g, m, d)


def measure(
    model: nn.Module,
    batches: Iterable[Any],
    held_out: Iterable[Any] | None = None,
    **options: Any,
) -> LayerTable:
    """Measure every linear layer and convolution of a model that is called, in one pass.

    Linear, Conv1d to Conv3d, their transposed kinds, and transformers' Conv1D; by the weight that
    its inputs meet, where a parametrisation or a forward of its own makes another of the parameter.
    What is left out stands below the printed table. The model is measured in evaluation mode and
    left as it was: its mode, parameters, gradients, buffers and hooks, the state of torch's random
    generators, and those of a DataLoader. Of a model inside of DistributedDataParallel or
    torch.compile the module itself is measured; one whose layers are no modules any more, as
    torch.jit and torch.export make them, or whose weights are in pieces, as fully_shard leaves
    them, is refused. Offloaded weights are fetched, and held until the table is made. Sums are on
    the model's device, or on the CPU where that has no float64, as Apple's GPUs.

    Args:
        model: any torch module whose layers are called as modules.
        batches: of (x, y), or mappings with "labels" for models that take keywords; x may be a
            mapping, or several inputs. Forms of y: see `targets.align`; −100 where a class is to be
            ignored. Labels of tokens are read as transformers' models mean them: those of padding
            are ignored, and those of causal language models are of the next token.
        held_out: batches of other samples, for which a second pass is made: Target Linearity of
            the read-outs that are fitted on the first ones.
        options: loss, output, names, reduction, projected, gradients_of_outputs, decay, theories
            and all_reduce, see `Measurement`.

    Returns:
        a row a layer, see `LayerRow`. Rows of features stand beside targets where gradients show,
        in a layer's first batch of two samples or more, that they belong together; elsewhere Target
        Linearity is nan, or where no gradient arrives the shapes decide, and a note says which.

    Raises:
        ValueError: no layers, no batches, batches or outputs that cannot be read, features that
            `reduction` does not take, a decay that is no positive number, a theory of another
            name, or a model of a kind that is refused.

    Warns:
        RuntimeWarning: weights, features or targets of which measures are nan or may be off by
            more than 10⁻⁶, and their layers.
    """
    measurement = Measurement(model, **options)
    measurement.run(batches)
    if held_out is not None:
        measurement.run(held_out, held_out=True)
    return measurement.table()


class Measurement:
    """What `measure` does, in steps: `run` adds batches, `table` makes the rows, once.

    Args:
        model: as `measure` takes it.
        loss: from the prediction and y, as it is in the batch, to the sum of every sample's loss.
            Default: cross-entropy for classes, squared error, in float32 or more.
        output: from what the model returns to its prediction, classes last. Default: the tensor
            itself, its `logits`, or the first of several.
        names: regular expression; only layers whose name it matches somewhere.
        reduction: what is done where a sample's features of a layer are a map of positions but its
            target is one. "exact": all positions side by side, up to 8,192 dimensions. "pool": the
            mean over positions, padding left out. "project": side by side, and beyond `projected`
            dimensions a fixed Gaussian projection to that many.
        projected: dimensions after "project".
        gradients_of_outputs: the average gradient outer product takes a backward pass for each
            output: False leaves it out.
        decay: λ of weight decay that is part of the loss, L + λ‖W‖²/2, for FACT; L is summed over
            samples, so λ is N times the optimizer's weight_decay where that trains by the mean. Of
            a weight that is tied or parametrised a row has not all that the decay is balanced by.
        theories: names of `theories.THEORIES`, whose columns are made too; see `LayerRow`.
        all_reduce: merge with the other processes of torch.distributed, each given one or more
            batches of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Loss | None = None,
        output: Callable[[Any], Tensor] | None = None,
        names: str = "",
        reduction: Reduction = "exact",
        projected: int = 2048,
        gradients_of_outputs: bool = True,
        decay: float | None = None,
        theories: Sequence[str] = (),
        all_reduce: bool = False,
    ) -> None:
        check(reduction)
        check_kind(bare(model))
        if decay is not None:
            check_decay(decay)
        self.decay, self.theories = decay, check_theories(theories)
        self.model, self.loss, self.output, self.names = bare(model), loss, output, names
        self.gradients_of_outputs, self.all_reduce = gradients_of_outputs, all_reduce
        numbers = itertools.count()
        self.collectors = {
            module: Collector(name, module, reduction, projected, numbers, self.theories)
            for name, module in self.model.named_modules()
            if is_layer(module) and re.search(names, name)
        }
        if not self.collectors:
            raise ValueError(
                f"the model has no linear layer or convolution whose name matches {names!r}"
            )
        self.classes, self.held_out_classes = Classes(), Classes()
        self.shifts: bool | None = None  # whether the model moves labels to the token before
        self.not_asked = ""  # why that is not known

    def run(self, batches: Iterable[Any], held_out: bool = False) -> None:
        """Add batches, or after them batches of held-out samples."""
        device = execution_device(self.model)
        with (
            untouched(self.model),
            unread(batches),
            recorded(self.collectors) as recorder,
            own_precision(device) as callers_precision,
            torch.set_grad_enabled(not held_out),
        ):
            for batch in batches:
                read = with_decoder(self.model, read_batch(batch, device))
                with callers_precision():
                    outputs = prediction(self.model(*read.args, **read.kwargs), self.output)
                    own = self.loss is not None and not held_out
                    loss = self.loss(outputs, read.y) if own else None
                with recorder.paused():
                    self._add(read, outputs, loss, held_out)

    def table(self, before: Moment | None = None) -> LayerTable:
        """A row a layer; before: `moment` of an earlier measurement, for the rows' cosine_step."""
        layers = [layer for layer in self.collectors.values() if layer.sums and not layer.refused]
        layers.sort(key=lambda layer: layer.first)
        classes, others = self.classes.seen.unique(), self.held_out_classes.seen.unique()
        if self.all_reduce:
            layers, classes, others = _agree(layers, classes, others)
        notes = _grouped(self._left_out())
        if not layers:
            reason, names = next(iter(notes.items()), ("no batches", self.names))
            raise ValueError(f"nothing was measured: {reason}: {', '.join(names)}")
        if absent := sorted(set(others.tolist()) - set(classes.tolist())):
            reason = f"no held-out Target Linearity, class {absent[0]} is not among the batches'"
            notes[reason] = [layer.name for layer in layers]
            for layer in layers:
                layer.sums.theories.held_out = {}
        rows = []
        for layer in layers:
            places = [each.places(classes) for each in (self.classes, self.held_out_classes)]
            sums = layer.finish(*places, len(classes))
            sums.before, sums.decay = (before or {}).get(layer.name), self.decay
            if self.all_reduce:
                sums.all_reduce()
            rows.append(sums.row(layer.name, layer.kind))
        problems = _grouped((problem, x.name) for x in layers for problem in x.sums.problems)
        for problem, names in problems.items():
            warnings.warn(f"{problem}: {', '.join(names)}", RuntimeWarning, stacklevel=3)
        return LayerTable(rows, problems | notes)

    def moment(self) -> Moment:
        """Weights and gradients as they were measured, for a later `table`."""
        every = [layer for layer in self.collectors.values() if layer.sums]
        return {
            layer.name: (layer.sums.weight.clone(), layer.sums.weight_gradient)
            for layer in every
            if layer.sums.weight_gradient is not None
        }

    def _add(self, batch: Batch, outputs: Tensor, loss: Tensor | None, held_out: bool) -> None:
        """Add what the layers were called with, and their gradients."""
        layers = [layer for layer in self.collectors.values() if layer.calls]
        batch, outputs, targets = self._aligned(batch, outputs)
        if bool(targets.counted.any()):
            if held_out:
                columns = self.held_out_classes.columns(targets)
                for layer in layers:
                    layer.add_held_out(columns, batch.mask)
            else:
                loss = default_loss(outputs, targets) if loss is None else loss
                self._add_fitted(layers, batch, outputs, targets, loss)
        for layer in layers:
            layer.calls, layer.rows = [], None

    def _aligned(self, batch: Batch, outputs: Tensor) -> tuple[Batch, Tensor, Targets]:
        """Outputs and targets of one form, labels of tokens where the model has them."""
        is_token = batch.is_whole and outputs.ndim == 3
        if is_token and batch.y.ndim == 2 and not batch.y.is_floating_point():
            if self.shifts is None and bool((batch.y != IGNORED).any()):
                classes = outputs.shape[-1]
                asked = shifts_labels(self.model, batch, classes, self.output)
                self.shifts, self.not_asked = asked
            batch = replace(batch, y=token_labels(batch, bool(self.shifts)))
        last = is_token or self.output is not None
        return batch, *align(outputs, batch.y, classes_last=last, exact=self.loss is None)

    def _add_fitted(
        self,
        layers: Sequence[Collector],
        batch: Batch,
        outputs: Tensor,
        targets: Targets,
        loss: Tensor,
    ) -> None:
        add_gradients(layers, loss, batch.mask)
        judge_rows(layers, outputs, batch.has_decoder and outputs.ndim == 3)
        columns, predicted = self.classes.columns(targets), None
        if outputs.ndim == 2 and targets.counted.ndim == 1:  # an output a sample
            if self.gradients_of_outputs:
                add_output_gradients(layers, outputs[targets.counted])
            if targets.are_classes:
                predicted = outputs.detach().argmax(-1)
        for layer in layers:
            layer.add_moments(columns, batch.mask)
            if predicted is not None:
                layer.add_predictions(columns, predicted, outputs.shape[-1])
        if "linearity" in self.theories:
            layers = sorted(layers, key=lambda layer: layer.first)
            for layer, following in itertools.pairwise(layers):
                layer.add_next(following)

    def _left_out(self) -> Iterator[tuple[str, str]]:
        """Reasons, and the layers or parameters that are left out of the table or of a measure."""
        for owner, parameter in other_weights(self.model):
            if re.search(self.names, owner):
                yield "left out, parameters of no linear layer or convolution", parameter
        if self.not_asked:
            yield f"labels are taken as they are, {self.not_asked}", type(self.model).__name__
        for layer in self.collectors.values():
            if reason := layer.left_out():
                yield f"left out, {reason}", layer.name
                continue
            for side, reason in layer.no_rows.items():
                if reason not in layer.sums.problems:
                    yield f"no Target Linearity of {side}, {reason}", layer.name
            if layer.rows_seen is False and len(layer.no_rows) < len(SIDES):
                yield "rows are taken for samples by their shape, no gradient shows it", layer.name
            if layer.changes:
                yield "measured by the product with its weight, but it returns another", layer.name
            if layer.sums.predictions is None:
                yield f"no NC4, more than {MOST_KEPT:,} numbers of inputs", layer.name
            if "crh" in self.theories and layer.is_wide:
                yield f"no alignments, more than {LARGEST:,} dimensions", layer.name
            if layer.sums.weight_gradient is None:
                yield "no gradients, the loss does not reach them", layer.name


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for reason, name in pairs:
        groups.setdefault(reason, []).append(name)
    return groups


def _agree(
    layers: Sequence[Collector], classes: Tensor, others: Tensor
) -> tuple[list[Collector], Tensor, Tensor]:
    """Layers in one order, classes and held-out ones, of all processes of torch.distributed.

    Raises:
        ValueError: in every process, where layers are called in some of them only.
    """
    calls = {x.name: (x.no_rows, x.sums.predictions is None) for x in layers}
    has_held_out = any(layer.sums.theories.held_out for layer in layers)
    mine = calls, classes.tolist(), others.tolist(), has_held_out
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    named = {layer.name: layer for layer in layers}
    if any(names.keys() != named.keys() for names, *_ in everyone):
        raise ValueError(
            "some layers are called in some processes only: give each process one or more batches, "
            "or leave these layers out by names"
        )
    for names, *_ in everyone:
        for name, (no_rows, too_many) in names.items():
            named[name].no_rows |= no_rows
            if too_many:
                named[name].sums.predictions = None
    if any(has for *_, has in everyone):
        for layer in layers:
            layer.hold_out()
    unions = (sorted({k for each in everyone for k in each[i]}) for i in (1, 2))
    order = everyone[0][0]
    joined = (torch.tensor(union, device=classes.device) for union in unions)
    return [named[name] for name in order], *joined
