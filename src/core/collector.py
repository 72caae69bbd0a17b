"""What `measure` gathers of one layer: its calls on a batch, and its sums over all."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .batch import summable
from .calls import Call
from .layer_sums import LayerSums
from .moments import FeatureMoments
from .reduction import LARGEST, NoRows, Reducer, Reduction
from .targets import Targets
from .theory_sums import SIDES, TheorySums

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
WIDE = 1024  # real targets beyond which only the diagonal of their scatter is kept


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a linear layer or convolution of torch, or transformers' Conv1D."""
    # by name: core does not import transformers
    return isinstance(module, LAYERS) or type(module).__name__ == "Conv1D"


def other_weights(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Modules and parameters that are matrices, of modules that are no layers: names of both."""
    for name, module in model.named_modules():
        if not is_layer(module):
            for key, parameter in module.named_parameters(recurse=False):
                if sum(size > 1 for size in parameter.shape) > 1:
                    yield name, f"{name}.{key}" if name else key


class Collector:
    """Keeps a layer's calls on one batch, and adds them to its sums; a `calls.Listener`."""

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        reduction: Reduction,
        projected: int,
        numbers: Iterator[int],
        theories: frozenset[str] = frozenset(),
    ) -> None:
        """numbers: given to the layers of a model in the order of their first calls."""
        self.name, self.kind = name, type(layer).__name__
        self.sums: LayerSums | None = None
        self.calls: list[Call] = []
        self.first = -1  # the number of its first call
        self.entered = False  # whether it was called
        self.changes = False  # whether it returns something else than its product
        self.refused = ""  # why it is left out, where that is known
        self.no_rows: dict[str, str] = {}  # side -> why it has no Target Linearity
        self.rows_seen: bool | None = None  # whether gradients showed that rows are the samples
        self.theories = theories  # see theories.THEORIES
        self.rows: Tensor | None = None  # of the inputs of the batch, where it was called once
        self._numbers = numbers
        self._reducers = {side: Reducer(name, reduction, projected) for side in SIDES}

    def enter(self) -> None:
        self.entered = True

    def keep(self, call: Call) -> None:
        weight = summable(call.product.weight(call.weight.detach()))
        if self.sums is None:
            self.sums = LayerSums(weight, theories=TheorySums(self.theories))
            self.first = next(self._numbers)
        elif not _same(self.sums.weight, weight):
            self.refuse("the weight is another in another call")
        self.calls.append(call)

    def leave(self, is_product: bool) -> None:
        self.changes |= not is_product

    def refuse(self, reason: str) -> None:
        self.refused = reason

    def left_out(self) -> str:
        """Why the layer has no row, if so."""
        if self.refused or self.sums is not None:
            return self.refused
        return (
            "its forward calls none of torch's linear functions" if self.entered else "never called"
        )

    @property
    def is_wide(self) -> bool:
        """Whether second moments of its rows are not kept."""
        return max(self.sums.weight.shape[1:]) > LARGEST

    def judge_rows(self, reasons: Sequence[str | None]) -> None:
        """Take what `foreign_rows` says of the calls on a first batch."""
        self.rows_seen = None not in reasons
        for reason in filter(None, reasons):
            for side in SIDES:
                self.no_rows.setdefault(side, reason)

    def add_gradients(self, call: Call, dz: Tensor, dw: Tensor, mask: Tensor | None) -> None:
        """Add ∂L/∂Z and ∂L/∂W of a call; mask: see `Reducer.rows`."""
        product = call.product
        h, dz, dw = product.inputs(call.inputs), product.outputs(dz), product.weight(dw)
        self.sums.add_gradients(h, dz, dw)
        if "crh" not in self.theories or self.is_wide:
            return
        rows = [h, product.outputs(call.outputs.detach()), dz]  # (g, N, ·)
        if mask is not None and not product.kernel and mask.numel() == h.shape[1]:
            rows = [values[:, mask.flatten().to(values.device)] for values in rows]
        self.sums.theories.add_rows(*map(summable, rows))

    def add_moments(self, targets: Targets, mask: Tensor | None) -> None:
        """Add the moments of inputs and outputs with the targets.

        Args:
            targets: classes as columns.
            mask: see `Reducer.rows`.
        """
        for side, *rows in self._rows(targets, mask):
            self._update(side, self._moments(side, targets), rows)
            if side == "inputs" and side not in self.no_rows and len(self.calls) == 1:
                self.rows = rows[0]

    def add_held_out(self, targets: Targets, mask: Tensor | None) -> None:
        """The same of held-out samples, which are not fitted."""
        held_out = self.hold_out()
        for side, *rows in self._rows(targets, mask):
            self._update(side, held_out[side], rows)

    def hold_out(self) -> dict[str, FeatureMoments]:
        """Moments of held-out samples by side, empty ones where there are none yet."""
        held_out = self.sums.theories.held_out
        for side in SIDES:
            fitted = getattr(self.sums, side)
            held_out.setdefault(side, FeatureMoments(fitted.diagonal_targets))
        return held_out

    def add_next(self, following: "Collector") -> None:
        """Add the moments with the inputs of the layer that is called next, where rows are one."""
        rows = [layer.rows for layer in (self, following) if layer.rows is not None]
        if len(rows) == 2 and len(rows[0]) == len(rows[1]):
            self._update("inputs", self.sums.theories.successive, rows)

    def add_predictions(self, targets: Targets, predicted: Tensor, classes: int) -> None:
        """Keep inputs of the classifier; predicted: classes (N,), one of `classes`."""
        if self.sums.weight.shape[:2] != (1, classes):
            return
        for call in self.calls:
            inputs = summable(call.features()[0])
            if inputs.shape[:-1] == targets.counted.shape:
                counted = targets.counted.to(inputs.device)
                self.sums.add_predictions(inputs[counted], predicted.to(counted.device)[counted])

    def finish(self, places: Tensor, held_out: Tensor, classes: int) -> LayerSums:
        """The sums over all batches.

        Args:
            places: of the columns among the classes that occur, in ascending order.
            held_out: the same of the columns of held-out samples.
            classes: how many these are.
        """
        theories = self.sums.theories
        for side in SIDES:
            moments = getattr(self.sums, side)
            if side in self.no_rows:  # in some of the calls
                setattr(self.sums, side, FeatureMoments(moments.diagonal_targets))
                theories.held_out.pop(side, None)
                continue
            _arrange(moments, places, classes)
            if side in theories.held_out:
                _arrange(theories.held_out[side], held_out, classes)
        if theories.successive.n != self.sums.inputs.n:  # not of all samples
            theories.successive = FeatureMoments(True)
        reducers = self._reducers.values()
        self.sums.reduction_error = math.fsum(reducer.error for reducer in reducers)
        self.sums.reduced_samples = sum(reducer.reduced for reducer in reducers)
        return self.sums

    def _rows(self, targets: Targets, mask: Tensor | None) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Of every call a side, rows of its features and their targets, where there are any."""
        for call in self.calls:
            for side, h in zip(SIDES, map(summable, call.features()), strict=True):
                try:
                    yield side, *self._reducers[side].rows(h, targets, mask)
                except NoRows as error:
                    self.no_rows.setdefault(side, str(error))

    def _update(self, side: str, moments: FeatureMoments, rows: Sequence[Tensor]) -> None:
        try:
            moments.update(*rows)
        except ValueError as error:  # numbers of which there is no moment
            if side not in self.no_rows:
                self.no_rows[side] = str(error)
                self.sums.note(str(error))

    def _moments(self, side: str, targets: Targets) -> FeatureMoments:
        moments = getattr(self.sums, side)
        if not moments.n and not targets.are_classes and targets.values.shape[1] > WIDE:
            moments.diagonal_targets = True
        return moments


def _arrange(moments: FeatureMoments, places: Tensor, classes: int) -> None:
    if moments.n and moments.one_hot:
        moments.arrange(places[: moments.c].to(moments.scatter.device), classes)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.data_ptr() == other.data_ptr() and one.shape == other.shape:
        return True
    return torch.equal(one.nan_to_num(), other.nan_to_num())
