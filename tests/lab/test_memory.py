"""What a run needs of memory, from its shapes, before any of it is asked for."""

import psutil
import pytest
import torch

from lab import context, memory
from lab.errors import ConfigError
from lab.models import CNN, MLP, VAE

GENERATORS = [torch.Generator(), torch.Generator()]  # two replicas
BUILD = {
    "MLP": lambda size: MLP((30, size, size, 10), GENERATORS),
    "CNN": lambda size: CNN((3, 8, 8), size, 10, GENERATORS),
    "VAE": lambda size: VAE(30, size, 5, GENERATORS),
}


def test_the_limit_is_at_most_what_the_machine_has():
    assert 0 < memory.limit() <= psutil.virtual_memory().total


@pytest.mark.parametrize("model", BUILD)
def test_a_model_is_refused_where_it_its_gradients_and_moments_do_not_fit(model, monkeypatch):
    parameters = sum(p.numel() for p in BUILD[model](40).parameters())
    monkeypatch.setattr(memory, "limit", lambda: 4 * 4 * parameters)
    BUILD[model](40)  # biases do not count everywhere: it is a lower bound
    with pytest.raises(ConfigError, match=r"^memory: training [\d,]+ parameters needs at least"):
        BUILD[model](44)


def test_a_size_that_no_machine_has_costs_no_time_and_no_memory():
    before = psutil.Process().memory_info().rss
    for build in BUILD.values():
        with pytest.raises(ConfigError, match="memory: "):
            build(10**7)
    assert psutil.Process().memory_info().rss - before < 2**27


def test_the_message_has_both_numbers_and_the_processes(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 5 * 2**30)
    with context.within(processes=3):
        memory.check("it", 5 * 2**30 / 12)
        with pytest.raises(ConfigError) as caught:
            memory.check("it", 2**30)
    assert str(caught.value) == (
        "memory: it needs at least 12 GiB in 3 processes, and there are 5: ask for less"
    )
