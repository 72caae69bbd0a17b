"""Batch orders, losses and arguments of the Trainer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import TrainingArguments

from lab.errors import ConfigError, Diverged
from lab.text import fine_tuning
from lab.text.encoders import IGNORED

LENGTHS = torch.randint(5, 60, (1000,), generator=torch.Generator().manual_seed(0)).tolist()


def order(seed: int, epoch: int) -> list[int]:
    sampler = fine_tuning.InOrder({"length": LENGTHS}, 8, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


class TestOrder:
    def test_follows_the_seed_and_the_epoch_alone_and_takes_every_row_once(self):
        orders = []
        for seed, epoch in ((0, 0), (0, 1), (1, 0)):
            torch.manual_seed(len(orders))  # the random numbers of others change nothing
            orders.append(order(seed, epoch))
            assert order(seed, epoch) == orders[-1]
            assert sorted(orders[-1]) == list(range(1000))
        assert len(set(map(tuple, orders))) == 3

    def test_puts_rows_of_like_lengths_into_a_batch(self):
        def padding(lengths: np.ndarray) -> float:
            return lengths.reshape(-1, 8).max(1).sum() * 8 / lengths.sum()

        lengths = np.array(LENGTHS)
        assert padding(lengths[order(0, 1)]) < 1.1 < padding(lengths)


class TestLoss:
    @pytest.mark.parametrize("shape", [(6,), (6, 5)], ids=["sentences", "words"])
    def test_of_parts_sums_to_the_mean_over_the_labelled_of_the_whole_batch(self, shape):
        g = torch.Generator().manual_seed(0)
        logits = torch.randn(*shape, 3, generator=g)
        labels = torch.randint(0, 3, shape, generator=g)
        if len(shape) == 2:
            labels[:, 0] = labels[2] = IGNORED
        counted = labels != IGNORED
        expected = functional.cross_entropy(logits[counted], labels[counted])
        whole = fine_tuning.mean_loss({"logits": logits}, labels)
        torch.testing.assert_close(whole, expected)
        parts = [
            fine_tuning.mean_loss({"logits": logits[part]}, labels[part], counted.sum())
            for part in (slice(0, 2), slice(2, 6))
        ]
        torch.testing.assert_close(sum(parts), expected)

    def test_that_is_not_finite_ends_with_one_line(self):
        texts = SimpleNamespace(name="mine", entities=False)
        loss = np.array([np.nan, 1.0])
        evaluated = SimpleNamespace(predictions=(np.zeros(2), loss), label_ids=np.zeros(2))
        with pytest.raises(Diverged, match="mine: training diverged; lower the learning rate"):
            fine_tuning.scores(texts, evaluated)


class TestArguments:
    def test_are_quiet_and_train_in_float32_on_a_cpu(self, tmp_path):
        options = {"warmup_steps": 0.1, "weight_decay": 0.01, "max_grad_norm": 0.5}
        arguments = fine_tuning.training_arguments(tmp_path, "cpu", 0, 32, **options)
        assert arguments.optim.startswith("adamw_torch")
        assert (arguments.weight_decay, arguments.max_grad_norm) == (0.01, 0.5)
        assert arguments.lr_scheduler_type == "linear"
        assert (arguments.get_warmup_steps(100), arguments.train_batch_size) == (10, 32)
        assert (arguments.bf16, arguments.fp16, arguments.report_to) == (False, False, [])

    def test_a_batch_that_the_devices_cannot_share_is_refused(self, monkeypatch, tmp_path):
        monkeypatch.setattr(TrainingArguments, "world_size", 3)
        with pytest.raises(ConfigError, match="must be multiples of the 3 devices, not 32"):
            fine_tuning.training_arguments(tmp_path, "cpu", 0, 32)
