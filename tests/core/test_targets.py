"""Targets of any form become one, or are refused in one line."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import draw
from core.linearity import report, target_linearity
from core.moments import FeatureMoments
from core.targets import Classes, Targets, align, dense

CLASSES = torch.tensor([0, 2, 1, 2])
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_type_is_int64(dtype: torch.dtype) -> None:
    assert torch.equal(dense(CLASSES.to(dtype)), CLASSES)


def test_arrays_and_lists_are_tensors() -> None:
    for form in (CLASSES.numpy(), CLASSES.tolist(), CLASSES.numpy().astype(np.uint8)):
        assert torch.equal(dense(form), CLASSES)
    assert dense([True, False]).tolist() == [1, 0]
    real = dense([0.1, 0.2])
    assert real.dtype == torch.float64
    assert real.tolist() == [0.1, 0.2]
    assert dense(np.float32([0.1])).dtype == torch.float32


REFUSED = {
    "complex": (torch.zeros(3, 2, dtype=torch.complex64), "complex"),
    "sparse": (torch.eye(3).to_sparse(), "sparse"),
    "words": (["a", "b"], "array of numbers"),
    "ragged": ([[1], [1, 2]], "array of numbers"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_plain_array_of_numbers_is_refused(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        dense(values)
    assert "\n" not in str(error.value)


def test_target_linearity_takes_arrays_and_lists() -> None:
    h, y = draw(40, 3), torch.arange(40) % 3
    expected = target_linearity(h, y)
    for form in (y.numpy(), y.tolist(), y.to(torch.int16), y.numpy().astype(np.int8)):
        assert target_linearity(h.numpy(), form) == expected
    real = h.sin().tolist()
    assert target_linearity(h.tolist(), real) == target_linearity(h, h.sin())


@pytest.mark.parametrize("size", [1e-170, 2.0**-1070, 1e170, 1.0])
def test_target_linearity_does_not_depend_on_sizes(size: float) -> None:
    """The squares of 1e-170 are zero in float64, those of 1e170 infinite."""
    h, y = 8 * draw(40, 3).round(), draw(40, 2, seed=1)
    expected = target_linearity(h, y)
    assert target_linearity(size * h, y) == pytest.approx(expected, rel=1e-12)
    scaled = target_linearity(h, min(size * 1e150, 1e170) * y)
    assert scaled == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("ignore::core.linearity.LostDigits")
def test_a_direction_below_the_cut_off_is_lost_and_the_report_says_where_that_lies() -> None:
    n = 200_000
    a, b = draw(n, 1), draw(n, 1, seed=1)
    for share, is_kept in ((4e-6, False), (4e-5, True)):
        linearity = report(FeatureMoments().update(torch.cat([a, a + share * b], 1), b))
        # of two columns that nearly agree, the smaller singular value is half of the difference
        assert (share / 2 > linearity.cutoff**0.5) is is_kept
        assert (linearity.value > 0.99) is is_kept
        assert linearity.rank == 1 + is_kept


def test_a_column_of_class_indices_is_not_taken_for_a_number() -> None:
    with pytest.raises(ValueError, match=r"class indices as \(N,\)"):
        FeatureMoments().update(draw(4, 3), CLASSES[:, None])


def aligned(outputs: Tensor, y: object, **options: bool) -> tuple[Tensor, Targets]:
    return align(outputs, dense(y), **options)


@pytest.mark.parametrize("y", [CLASSES, CLASSES[:, None]], ids=["(N,)", "(N, 1)"])
def test_a_class_a_sample(y: Tensor) -> None:
    outputs, targets = aligned(draw(4, 3), y)
    assert outputs.shape == (4, 3)
    assert torch.equal(targets.values, CLASSES)
    assert targets.counted.all()


def test_several_classes_at_once_are_numbers() -> None:
    y = torch.tensor([[0, 1, 1], [1, 0, 0]])
    _, targets = aligned(draw(2, 3), y)
    assert torch.equal(targets.values, y.float())


@pytest.mark.parametrize("outputs", [(5,), (5, 1)])
@pytest.mark.parametrize("y", [(5,), (5, 1)])
def test_one_number_a_sample_is_a_column(outputs: tuple[int, ...], y: tuple[int, ...]) -> None:
    """Otherwise (5, 1) − (5,) is a matrix of 25 differences."""
    z, targets = aligned(draw(*outputs), draw(*y, seed=1))
    assert z.shape == targets.values.shape == (5, 1)


def test_images_as_targets_are_rows() -> None:
    y = draw(5, 2, 3, 4)
    outputs, targets = aligned(draw(5, 2, 3, 4, seed=1), y)
    assert outputs.shape == (5, 2, 3, 4)
    assert torch.equal(targets.values, y.flatten(1))


@pytest.mark.parametrize("masks", [(2, 5, 6), (2, 1, 5, 6)])
def test_segmentation_has_classes_on_the_first_axis_even_where_there_are_as_many_as_columns(masks):
    y = torch.arange(60).reshape(masks) % 6
    logits = draw(2, 6, 5, 6)
    outputs, targets = aligned(logits, y)
    assert torch.equal(outputs, logits.movedim(1, -1))
    assert targets.values.shape == targets.counted.shape == (2, 5, 6)


def test_tokens_have_classes_on_the_last_axis() -> None:
    logits, y = draw(2, 5, 3), torch.arange(10).view(2, 5) % 3
    y[0, 4] = -100
    outputs, targets = aligned(logits, y)
    assert outputs is logits
    assert targets.counted.tolist() == [[True] * 4 + [False], [True] * 5]


def test_an_axis_that_shapes_do_not_tell_is_asked_for() -> None:
    logits, y = draw(2, 3, 3), torch.arange(6).view(2, 3) % 3
    with pytest.raises(ValueError, match="which axis holds the classes"):
        aligned(logits, y)
    assert aligned(logits, y, classes_last=True)[0] is logits


MISMATCHED = {
    "samples": ((4, 3), torch.arange(5), "not as many samples"),
    "real columns": ((4, 3), torch.zeros(4, 2), r"\(4, 3\) and real targets \(4, 2\)"),
    "one real column": ((4, 3), torch.zeros(4), r"\(4, 3\) and real targets \(4, 1\)"),
    "tokens": ((4, 5, 3), torch.zeros(4, 6, dtype=torch.int64), "say with output="),
    "a class, outputs at positions": ((4, 5, 3), torch.arange(4) % 3, "say with output="),
    "one output, classes": ((4, 1), torch.arange(4) % 2, r"targets.float\(\)"),
    "class beyond the outputs": ((4, 3), torch.arange(4), "from 0 to 3, and outputs for 3"),
    "negative class": ((4, 3), torch.tensor([0, -1, 2, 0]), "from -1"),
    "nan": ((4, 1), torch.full((4, 1), torch.nan), "nan or infinity"),
}


@pytest.mark.parametrize(("shape", "y", "message"), MISMATCHED.values(), ids=MISMATCHED)
def test_what_does_not_go_together_is_refused(shape, y, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        aligned(draw(*shape), y)
    assert "\n" not in str(error.value)


def test_beside_a_loss_of_ones_own_targets_are_read_by_themselves() -> None:
    _, targets = aligned(draw(4, 7), CLASSES, exact=False)
    assert torch.equal(targets.values, CLASSES)
    _, targets = aligned(draw(4, 1), CLASSES % 2, exact=False)
    assert targets.are_classes
    _, targets = aligned(draw(4, 7), draw(4, 2), exact=False)
    assert targets.values.shape == (4, 2)


def test_classes_are_columns_in_the_order_in_which_they_occur() -> None:
    classes = Classes()
    batches = [[30521, 7, 7], [9, 30521, 4], [-100, -100, -100], [4, -100, 2]]
    columns = []
    for batch in batches:
        values = torch.tensor(batch)
        targets = classes.columns(Targets(values, values != -100))
        columns.append(targets.values[targets.counted].tolist())
        assert torch.equal(classes.seen[targets.values[targets.counted]], values[values != -100])
    assert classes.seen.tolist()[:2] == [7, 30521]
    ascending = classes.seen.unique()
    assert torch.equal(ascending[classes.places(ascending)], classes.seen)
    assert max(map(max, filter(None, columns))) == len(ascending) - 1 == 4
