"""A Trainer of transformers, in bfloat16 and on padded batches, measured while it trains."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from core.callback import MeasureEvery
from core.layer_table import LayerTable
from core.measure import measure
from lab.text import toy_language

pytestmark = pytest.mark.slow

CLASSES, EPOCHS = 3, 2
FEATURES = ("tl_in", "tl_out", "chance_in", "adjusted_in", "cka_in", "nc2_norm", "nc2_angle")


def sentences(n: int, start: int = 0) -> list[dict[str, object]]:
    """Of 3 to 9 tokens; the class is in the first."""
    g = torch.Generator().manual_seed(start)
    rows = torch.randint(5, 20, (n, 9), generator=g).tolist()
    return [
        {"input_ids": row[: 3 + i % 7], "label": row[0] % CLASSES} for i, row in enumerate(rows)
    ]


class Watch(TrainerCallback):
    def __init__(self, watch: MeasureEvery) -> None:
        self.watch = watch

    def on_epoch_end(self, args, state, control, **_) -> None:
        self.watch(round(state.epoch))


def train(model: nn.Module, folder: Path, watch: MeasureEvery | None) -> None:
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    collate = DataCollatorWithPadding(toy_language.tokenizer())
    callbacks = [] if watch is None else [Watch(watch)]
    trainer = Trainer(model, arguments, collate, sentences(64), callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def build() -> nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=30, **shape, intermediate_size=32, num_labels=CLASSES)
    return BertForSequenceClassification(config)


def batches(size: int) -> list:
    collate, rows = DataCollatorWithPadding(toy_language.tokenizer()), sentences(120, start=1)
    return [collate(rows[i : i + size]) for i in range(0, len(rows), size)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, dict[int, LayerTable]]:
    """The trained model, whose forward is in bfloat16, and its tables."""
    folder, model = tmp_path_factory.mktemp("trainer"), build()
    watch = MeasureEvery(1, model, batches(40), reduction="pool")
    train(model, folder, watch)
    return model, watch.tables


def test_every_epoch_has_a_table(run) -> None:
    _, tables = run
    assert list(tables) == [1, 2]
    for row in tables[2]:
        assert row.n == 120
        assert 0 < row.residual < 0.03  # bfloat16's rounding
        assert -1 < row.cosine_step < 1


def test_measuring_does_not_change_training(run, tmp_path: Path) -> None:
    other = build()
    train(other, tmp_path, None)
    for parameter, expected in zip(other.parameters(), run[0].parameters(), strict=True):
        assert torch.equal(parameter, expected)


@pytest.fixture
def twin(run) -> nn.Module:
    """The trained model in float32."""
    model = build()
    model.load_state_dict(run[0].state_dict())
    return model


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)], ids=str
)
def test_padded_features_are_those_of_an_unpadded_twin(twin, dtype, tolerance) -> None:
    """Inputs of every layer; some outputs are near dependent, which makes more of rounding."""
    twin.to(dtype)
    padded = measure(twin, batches(40), reduction="pool")
    alone = measure(twin, batches(1), reduction="pool")
    for row, expected in zip(padded, alone, strict=True):
        for name in FEATURES:
            bound = 10 * tolerance if name == "tl_out" else tolerance
            assert getattr(row, name) == pytest.approx(getattr(expected, name), rel=0, abs=bound)


def test_in_bfloat16_they_differ_by_its_rounding(run, twin) -> None:
    (_, tables), exact = run, measure(twin, batches(40), reduction="pool")
    gaps = [abs(row.tl_in - other.tl_in) for row, other in zip(tables[2], exact, strict=True)]
    assert 1e-9 < max(gaps) < 0.02
