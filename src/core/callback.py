"""Measuring a model while an ordinary loop trains it."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from .layer_table import LayerTable
from .measure import Measurement, Moment


class MeasureEvery:
    """Call it in every epoch: every k-th is measured, and training goes on to the same bits.

        watch = MeasureEvery(5, model, batches)
        for epoch in range(epochs):
            watch(epoch)
            ...  # an epoch of training
        watch.tables[5]  # by epoch; pictures.measure_by_epoch(watch.tables, "tl_in") draws them

    From the second table on `cosine_step` says whether training moved the Gram matrix as the
    Virtual Covariance Shift of the table before points: the cosine of the two. For that the weights
    and gradients of the last table are kept.

    `measure` leaves the model and torch's random generators as they were, and those that a
    DataLoader, its samplers and its data set hold. The global ones of Python and NumPy, from which
    a data set's own transforms may draw, are not put back, nor are those of workers. Ours.
    """

    def __init__(
        self,
        every: int,
        model: nn.Module,
        batches: Iterable[Any],
        held_out: Iterable[Any] | None = None,
        **options: Any,
    ) -> None:
        """Args:
            every: epochs from one measurement to the next.
            model: is measured as it is when called.
            batches: as `measure` takes them, read anew each time; as are those held out.
            options: see `Measurement`.

        Raises:
            ValueError: every is below one, or batches can be read only once.
        """
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}")
        # not by iter(): a DataLoader draws from torch's generator then
        if isinstance(batches, Iterator) or isinstance(held_out, Iterator):
            raise ValueError("batches can be read only once: give a list or a DataLoader")
        self.every, self.model, self.options = every, model, options
        self.batches, self.held_out = batches, held_out
        self.tables: dict[int, LayerTable] = {}
        self._moment: Moment = {}

    def __call__(self, epoch: int) -> None:
        if epoch % self.every == 0:
            measurement = Measurement(self.model, **self.options)
            measurement.run(self.batches)
            if self.held_out is not None:
                measurement.run(self.held_out, held_out=True)
            self.tables[epoch] = measurement.table(self._moment)
            self._moment = measurement.moment()
