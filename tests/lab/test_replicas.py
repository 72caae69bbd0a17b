"""Replicas: streams of random numbers, options of their own, and how they are dealt out."""

import copy
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from lab import data, gpus, training
from lab.errors import Diverged
from lab.models import MLP
from lab.replicas import (
    STREAMS,
    Replica,
    deal,
    describe,
    generator,
    generators,
    in_batches,
    make_optimizer,
)

RATES = [
    Replica(3),
    Replica(1, {"lr": 0.02}),
    Replica(2, {"lr": 0.02}),
    Replica(1, {"lr": 0.1}),
    Replica(1),
]


def build(replicas):
    return MLP((6, 5, 4), generators(replicas, "weights"))


class TestGenerator:
    def test_streams_of_all_seeds_differ_and_repeat(self):
        draws = {
            (seed, stream): tuple(torch.rand(4, generator=generator(seed, stream)).tolist())
            for seed in range(5)
            for stream in STREAMS
        }
        assert len(set(draws.values())) == 5 * len(STREAMS)
        again = torch.rand(4, generator=generator(3, "order"))
        assert draws[3, "order"] == tuple(again.tolist())

    def test_each_replica_has_its_seeds(self):
        found = [torch.rand(1, generator=g) for g in generators(RATES, "noise")]
        assert found == [torch.rand(1, generator=generator(r.seed, "noise")) for r in RATES]
        assert found[0] != found[1] == found[3]


class TestOptimizer:
    @pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
    def test_each_replica_steps_as_with_an_optimizer_of_its_own_options(self, kind):
        model = build(RATES)
        before = copy.deepcopy(model)
        optimizer = make_optimizer(kind, model, RATES, lr=0.25)
        for _ in range(3):
            sum(p.square().sum() for p in model.parameters()).backward()
            optimizer.step()
            optimizer.zero_grad()
        for r, replica in enumerate(RATES):
            alone = [p[r].clone().detach().requires_grad_() for p in before.parameters()]
            own = kind(alone, **{"lr": 0.25, **replica.options})
            for _ in range(3):
                sum(p.square().sum() for p in alone).backward()
                own.step()
                own.zero_grad()
            for p, q in zip(model.parameters(), alone, strict=True):
                torch.testing.assert_close(p[r], q)

    def test_neighbours_of_equal_options_share_a_group_of_views(self):
        model = build(RATES)
        groups = make_optimizer(torch.optim.SGD, model, RATES, lr=0.25).param_groups
        sizes = [(len(group["params"][0]), group["lr"]) for group in groups]
        assert sizes == [(1, 0.25), (2, 0.02), (1, 0.1), (1, 0.25)]
        first = model.layers[0].weight
        assert [g["params"][0].data_ptr() for g in groups] == [
            first[r].data_ptr() for r in (0, 1, 3, 4)
        ]

    def test_replicas_of_equal_options_share_the_parameters_themselves(self):
        replicas = [Replica(seed, {"lr": 0.1}) for seed in range(3)]
        model = build(replicas)
        (group,) = make_optimizer(torch.optim.SGD, model, replicas, lr=0.25).param_groups
        assert group["lr"] == 0.1
        assert all(p is q for p, q in zip(group["params"], model.parameters(), strict=True))

    def test_leaves_alone_what_needs_no_gradient(self):
        model = build(RATES)
        model.layers[0].requires_grad_(False)
        frozen = model.layers[0].weight.clone()
        optimizer = make_optimizer(torch.optim.SGD, model, RATES, lr=0.25, weight_decay=0.1)
        model(torch.ones(len(RATES), 2, 6)).sum().backward()
        optimizer.step()
        assert torch.equal(model.layers[0].weight, frozen)

    def test_settings_do_not_reach_it(self):
        noisy = [Replica(i, r.options, {"lr": 9.0 + i}) for i, r in enumerate(RATES)]
        groups = make_optimizer(torch.optim.SGD, build(noisy), noisy, lr=0.25).param_groups
        assert [group["lr"] for group in groups] == [0.25, 0.02, 0.1, 0.25]


def train(replicas):
    """Twenty steps of an MLP on the digits; also what it was given, and a denormal number."""
    images = data.load_images("digits")
    model = MLP((64, 8, 10), generators(replicas, "weights"))
    optimizer = make_optimizer(torch.optim.SGD, model, replicas, momentum=0.9)
    x = images.scale(images.x_train[:640]).flatten(1).expand(len(replicas), -1, -1)
    y = images.y_train[:640].expand(len(replicas), -1)
    for step in range(20):
        part = slice(32 * step, 32 * (step + 1))
        logits = model(x[:, part])
        training.cross_entropy(logits, y[:, part]).backward()
        optimizer.step()
        optimizer.zero_grad()
    tiny = torch.full((len(replicas),), 1e-30) * torch.tensor(1e-10)
    return {
        "weights": torch.cat([p.detach().flatten(1) for p in model.parameters()], 1).numpy(),
        "seed": np.array([replica.seed for replica in replicas]),
        "noise": np.array([replica.settings["noise"] for replica in replicas]),
        "tiny": tiny.numpy(),
    }


GRID = [Replica(s, {"lr": lr}, {"noise": s + lr}) for lr in (0.05, 0.2) for s in (0, 1)]


def dealt(function, replicas, **how):
    return dict(deal(function, replicas, **how))


def assert_same(found, expected):
    """Both hold the same bits."""
    assert found.keys() == expected.keys()
    for i in found:
        assert found[i].keys() == expected[i].keys()
        for name in found[i]:
            np.testing.assert_array_equal(found[i][name], expected[i][name], err_msg=name)


class TestDeal:
    def test_each_replica_is_trained_alone_without_denormal_numbers(self):
        found = dealt(train, GRID, device="cpu", jobs=1)
        assert sorted(found) == list(range(4))
        for i, replica in enumerate(GRID):
            alone = {name: values[0] for name, values in train([replica]).items()}
            assert alone.pop("tiny") > 0 == found[i].pop("tiny")  # and is as before for the caller
            assert_same({i: found[i]}, {i: alone})

    def test_a_gpu_is_given_all_replicas_as_one_batch(self):
        groups = []

        def counted(replicas):  # deal only hands out: this trains on the CPU
            groups.append(list(replicas))
            return train(replicas)

        together = dealt(counted, GRID, device="cuda")
        assert groups == [GRID]
        for i, replica in enumerate(GRID):
            assert together[i]["seed"] == replica.seed

    def test_a_full_gpu_is_given_parts_and_the_numbers_stay(self, monkeypatch):
        memory = Mock(share=lambda: 0.9)
        monkeypatch.setattr(gpus, "Memory", lambda: memory)
        sizes = []

        def limited(replicas):
            sizes.append(len(replicas))
            if len(replicas) > 2:
                raise torch.OutOfMemoryError
            return train(replicas)

        together, parts = (dealt(how, GRID, device="cuda") for how in (train, limited))
        assert sizes == [4, 2, 2]
        assert memory.clear.call_count == 1
        for i in range(len(GRID)):
            np.testing.assert_allclose(parts[i]["weights"], together[i]["weights"], atol=1e-6)

    def test_replicas_come_as_they_are_done(self):
        begun = []

        def counted(replicas):
            begun.append(replicas[0].seed)
            return {"seed": np.array([replicas[0].seed])}

        pairs = deal(counted, [Replica(5), Replica(4)], device="cpu", jobs=1)
        assert next(pairs) == (0, {"seed": 5})
        assert begun == [5]
        assert next(pairs) == (1, {"seed": 4})

    @pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_a_replica_that_fails_ends_the_run_with_its_error_but_not_the_next_run(self, jobs):
        with pytest.raises(ArithmeticError, match="seed -1"):
            dealt(fragile, [Replica(0), Replica(-1), Replica(1)], device="cpu", jobs=jobs)
        found = dealt(fragile, [Replica(3), Replica(4)], device="cpu", jobs=jobs)
        assert [found[i]["seed"] for i in range(2)] == [3, 4]


def fragile(replicas):
    if replicas[0].seed < 0:
        raise ArithmeticError(f"seed {replicas[0].seed}")
    return {"seed": np.array([replica.seed for replica in replicas])}


def diverging(replicas):
    if any(replica.seed < 0 for replica in replicas):
        raise Diverged("it diverged", 2, {"loss": np.zeros(2)} if len(replicas) == 1 else {})
    return {"seed": np.array([replica.seed for replica in replicas])}


class TestDivergence:
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_of_some_replicas_stops_no_other(self, device):
        seeds = [0, -1, 2, 3, -4, 5, 6]
        found = dealt(diverging, [Replica(seed) for seed in seeds], device=device, jobs=1)
        for i, seed in enumerate(seeds):
            if seed < 0:
                assert (found[i].epoch, len(found[i].arrays["loss"])) == (2, 2)
            else:
                assert found[i] == {"seed": seed}

    def test_halves_a_batch_until_those_that_diverge_are_alone(self):
        sizes = []

        def counted(replicas):
            sizes.append(len(replicas))
            return diverging(replicas)

        dealt(counted, [Replica(seed) for seed in (0, 1, 2, -3)], device="cuda")
        assert sizes == [4, 2, 2, 1, 1]


def test_a_replica_in_words_says_all_that_is_its_own():
    assert describe(Replica(3, {"lr": 0.1}, {"p": 0.5})) == "seed 3, lr 0.1, p 0.5"


def test_replicas_of_one_setting_are_one_batch():
    seen = []

    def train(width, batch):
        seen.append((width, [replica.seed for replica in batch]))
        return {"seed": np.array([replica.seed for replica in batch]) + width}

    pairs = [(8, 0), (8, 3), (16, 0), (16, 3)]
    replicas = [Replica(seed, settings={"width": width}) for width, seed in pairs]
    assert in_batches(train, replicas, "width")["seed"].tolist() == [8, 11, 16, 19]
    assert seen == [(8, [0, 3]), (16, [0, 3])]
