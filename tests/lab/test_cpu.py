"""Settings of the CPU hold where they are wanted, and the caller finds everything as it was."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from lab import cpu


def test_threads_are_those_asked_for_and_restored_after_a_failure():
    before = torch.get_num_threads()
    with suppress(ArithmeticError), cpu.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ArithmeticError
    assert torch.get_num_threads() == before


def test_denormal_numbers_count_as_zero_only_where_they_are_flushed():
    def product():
        return (torch.full((4,), 1e-30) * torch.tensor(1e-10))[0]

    with cpu.flush_denormals():
        assert product() == 0
    assert product() > 0


@pytest.mark.parametrize("axes", [3, 5], ids=["matrices", "kernels"])
def test_only_a_model_that_convolves_is_trained_by_onednn(axes):
    assert torch.backends.mkldnn.enabled
    with suppress(ArithmeticError), cpu.kernels_for([nn.Parameter(torch.zeros([1] * axes))]):
        assert torch.backends.mkldnn.enabled == (axes == 5)
        raise ArithmeticError
    assert torch.backends.mkldnn.enabled
