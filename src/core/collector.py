"""What `measure` gathers of one layer: its calls on a batch, and its sums over all."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .batch import summable
from .calls import Call
from .layer_sums import LayerSums
from .moments import FeatureMoments
from .reduction import NoRows, Reducer, Reduction
from .targets import Targets

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
SIDES = ("inputs", "outputs")
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
        self._numbers = numbers
        self._reducers = {side: Reducer(name, reduction, projected) for side in SIDES}

    def enter(self) -> None:
        self.entered = True

    def keep(self, call: Call) -> None:
        weight = summable(call.product.weight(call.weight.detach()))
        if self.sums is None:
            self.sums, self.first = LayerSums(weight), next(self._numbers)
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

    def judge_rows(self, reasons: Sequence[str | None]) -> None:
        """Take what `foreign_rows` says of the calls on a first batch."""
        self.rows_seen = None not in reasons
        for reason in filter(None, reasons):
            for side in SIDES:
                self.no_rows.setdefault(side, reason)

    def add_gradients(self, call: Call, dz: Tensor, dw: Tensor) -> None:
        """Add ∂L/∂Z and ∂L/∂W of a call."""
        product = call.product
        self.sums.add_gradients(
            product.inputs(call.inputs), product.outputs(dz), product.weight(dw)
        )

    def add_moments(
        self, targets: Targets, mask: Tensor | None, predicted: Tensor | None, classes: int
    ) -> None:
        """Add the moments of inputs and outputs with the targets.

        Args:
            targets: classes as columns.
            mask: see `Reducer.rows`.
            predicted: classes (N,) as the network predicts them, one of `classes`.
        """
        for call in self.calls:
            features = dict(zip(SIDES, map(summable, call.features()), strict=True))
            for side, h in features.items():
                try:
                    rows = self._reducers[side].rows(h, targets, mask)
                except NoRows as error:
                    self.no_rows.setdefault(side, str(error))
                    continue
                try:
                    self._moments(side, targets).update(*rows)
                except ValueError as error:  # numbers of which there is no moment
                    if side not in self.no_rows:
                        self.no_rows[side] = str(error)
                        self.sums.note(str(error))
            inputs, counted = features["inputs"], targets.counted
            is_classifier = self.sums.weight.shape[:2] == (1, classes)
            if is_classifier and predicted is not None and inputs.shape[:-1] == counted.shape:
                counted = counted.to(inputs.device)
                self.sums.add_predictions(inputs[counted], predicted.to(counted.device)[counted])

    def finish(self, places: Tensor, classes: int) -> LayerSums:
        """The sums over all batches.

        Args:
            places: of the columns among the classes that occur, in ascending order.
            classes: how many these are.
        """
        for side in SIDES:
            moments = getattr(self.sums, side)
            if side in self.no_rows:  # in some of the calls
                setattr(self.sums, side, FeatureMoments(moments.diagonal_targets))
            elif moments.n and moments.one_hot:
                moments.arrange(places[: moments.c].to(moments.scatter.device), classes)
        reducers = self._reducers.values()
        self.sums.reduction_error = math.fsum(reducer.error for reducer in reducers)
        self.sums.reduced_samples = sum(reducer.reduced for reducer in reducers)
        return self.sums

    def _moments(self, side: str, targets: Targets) -> FeatureMoments:
        moments = getattr(self.sums, side)
        if not moments.n and not targets.are_classes and targets.values.shape[1] > WIDE:
            moments.diagonal_targets = True
        return moments


def _same(one: Tensor, other: Tensor) -> bool:
    if one.data_ptr() == other.data_ptr() and one.shape == other.shape:
        return True
    return torch.equal(one.nan_to_num(), other.nan_to_num())
