"""`measure` reads labels and padding of tokens as transformers' models mean them."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from core.layer_table import LayerTable
from core.linearity import target_linearity
from core.measure import measure
from lab.text import toy_language

VOCABULARY = 12


def tokens(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, shape, generator=g)


def gpt2(**changes: object) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **shape, **changes)).double()


def bert(kind: type, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    return kind(
        BertConfig(vocab_size=VOCABULARY, **shape, intermediate_size=16, **changes)
    ).double()


def row(table: LayerTable, name: str):
    return next(row for row in table if row.name == name)


def head_inputs(model: nn.Module, head: nn.Module, **inputs: Tensor) -> Tensor:
    """What a layer is given in evaluation mode."""
    seen = []
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model.eval()(**inputs)
    handle.remove()
    return seen[0]


@pytest.mark.filterwarnings("ignore:`loss_type=None`")
def test_a_causal_model_predicts_the_next_token() -> None:
    model, ids = gpt2(), tokens(30, 10)
    batches = [{"input_ids": part, "labels": part} for part in ids.split(13)]
    head = row(measure(model, batches), "lm_head")
    h = head_inputs(model, model.lm_head, input_ids=ids)
    next_token = target_linearity(h[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    own_token = target_linearity(h.flatten(0, 1), ids.flatten())
    assert head.n == 30 * 9
    assert head.tl_in == pytest.approx(next_token, rel=1e-9)
    assert own_token > 3 * next_token  # what it is not


def test_padding_of_a_causal_model_counts_for_nothing() -> None:
    model, ids = gpt2(), tokens(8, 10)
    mask = torch.ones_like(ids)
    mask[:4, 7:] = 0
    padded = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    parts = [{"input_ids": part, "labels": part} for part in (ids[:4, :7], ids[4:])]
    padded, alone = (row(measure(model, b), "lm_head") for b in ([padded], parts))
    assert padded.n == alone.n == 4 * 6 + 4 * 9
    assert padded.tl_in == pytest.approx(alone.tl_in, rel=1e-9)
    assert padded.cosine_vc == pytest.approx(alone.cosine_vc, rel=1e-6)


def test_tags_of_tokens_stay_where_they_are() -> None:
    model, ids = bert(BertForTokenClassification, num_labels=3), tokens(20, 6)
    labels = ids % 3
    labels[:, 0] = -100  # a model that shifts would leave out these
    head = row(measure(model, [{"input_ids": ids, "labels": labels}]), "classifier")
    h = head_inputs(model, model.classifier, input_ids=ids)[:, 1:].flatten(0, 1)
    assert head.tl_in == pytest.approx(target_linearity(h, labels[:, 1:].flatten()), rel=1e-9)


@pytest.mark.filterwarnings("ignore:`loss_type=None`")
@pytest.mark.parametrize("form", ["a tuple", "a mapping"])
def test_a_causal_model_whose_outputs_are_of_another_form_predicts_the_next_token(form) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = gpt2()

        def forward(self, **batch: Tensor) -> object:
            outputs = self.inner(**batch, use_cache=False)
            return outputs.to_tuple() if form == "a tuple" else dict(outputs)

    ids = tokens(12, 10)
    head = row(measure(Wrapped(), [{"input_ids": ids, "labels": ids}]), "inner.lm_head")
    assert head.n == 12 * 9


def test_labels_that_are_given_beside_inputs_are_as_they_are() -> None:
    """(x, y): the user has moved them."""
    model, ids = gpt2(), tokens(30, 10)
    moved = torch.cat([ids[:, 1:], torch.full((30, 1), -100)], 1)
    given = ([(ids, moved)], [({"input_ids": ids}, moved)], [{"input_ids": ids, "labels": ids}])
    heads = [row(measure(model, b, output=lambda o: o.logits), "lm_head") for b in given]
    assert heads[0].tl_in == heads[1].tl_in == heads[2].tl_in


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, **shape, decoder_start_token_id=0)
    ).double()


def test_a_decoder_is_given_what_its_model_makes_of_the_labels() -> None:
    model, ids, labels = t5(), tokens(25, 7), tokens(25, 5, seed=1)
    labels[:5, 3:] = -100
    table = measure(model, [{"input_ids": ids, "labels": labels}])
    head = row(table, "lm_head")
    h = head_inputs(model, model.lm_head, input_ids=ids, labels=labels)
    kept = labels != -100
    assert head.n == int(kept.sum())
    assert head.tl_in == pytest.approx(target_linearity(h[kept], labels[kept]), rel=1e-9)
    encoder = row(table, "encoder.block.0.layer.0.SelfAttention.q")
    assert math.isnan(encoder.tl_in)  # its positions are of other tokens
    assert encoder.cosine_vc == pytest.approx(encoder.cosine_vc)
    assert any("(25, 7)" in note for note in table.notes)


def test_lengths_that_agree_in_one_batch_only_are_not_compared() -> None:
    model = t5()
    sizes = ((4, 5), (5, 5), (6, 5))
    batches = [{"input_ids": tokens(9, n), "labels": tokens(9, m)} for n, m in sizes]
    table = measure(model, batches)
    encoder = row(table, "encoder.block.0.layer.0.SelfAttention.q")
    assert encoder.n == 0
    assert math.isnan(encoder.tl_in)
    assert row(table, "lm_head").n == 3 * 9 * 5


class TestPaddedSentences:
    """A classifier of sentences of 3 to 8 tokens, padded to the longest of a batch."""

    @pytest.fixture
    def model(self) -> nn.Module:
        return bert(BertForSequenceClassification, num_labels=3)

    @pytest.fixture
    def sentences(self) -> list[dict[str, list[int] | int]]:
        ids = tokens(30, 8).tolist()
        return [{"input_ids": row[: 3 + i % 6], "label": i % 3} for i, row in enumerate(ids)]

    def padded(self, sentences: list, size: int) -> list:
        collate = DataCollatorWithPadding(toy_language.tokenizer())
        return [collate(sentences[i : i + size]) for i in range(0, len(sentences), size)]

    def test_are_pooled_without_their_padding(self, model, sentences) -> None:
        table = measure(model, self.padded(sentences, 7), reduction="pool")
        alone = measure(model, self.padded(sentences, 1), reduction="pool")
        for one, other in zip(table, alone, strict=True):
            for name in ("n", "tl_in", "tl_out", "nc1", "cosine_vc", "cosine_agop", "surrogate"):
                expected = getattr(other, name)
                assert getattr(one, name) == pytest.approx(expected, rel=1e-6, nan_ok=True)
        assert all(row.residual < 1e-10 for row in table)

    def test_pooled_features_are_means_over_tokens(self, model, sentences) -> None:
        layer = model.bert.encoder.layer[1].output.dense
        means = [
            head_inputs(model, layer, input_ids=torch.tensor([s["input_ids"]])).mean(1)
            for s in sentences
        ]
        labels = torch.tensor([s["label"] for s in sentences])
        table = measure(model, self.padded(sentences, 7), reduction="pool")
        actual = row(table, "bert.encoder.layer.1.output.dense").tl_in
        assert actual == pytest.approx(target_linearity(torch.cat(means), labels), rel=1e-9)

    def test_cannot_stand_side_by_side(self, model, sentences) -> None:
        message = "bert.encoder.*: padded samples.* take reduction 'pool'"
        with pytest.raises(ValueError, match=message) as error:
            measure(model, self.padded(sentences, 7))
        assert "\n" not in str(error.value)

    def test_of_two_lengths_cannot_either(self, model, sentences) -> None:
        batches = self.padded([sentences[0], sentences[6]], 2) + self.padded([sentences[1]], 1)
        message = "bert.encoder.*: maps of 24 and of 32 dimensions.* 'pool'"
        with pytest.raises(ValueError, match=message):
            measure(model, batches)

    def test_beside_a_mask_of_other_positions_are_not_pooled(self, model, sentences) -> None:
        class Strided(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.conv = model, nn.Conv1d(1, 4, 2, stride=2).double()

            def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Tensor) -> Tensor:
                logits = self.inner(input_ids, attention_mask=attention_mask).logits
                return logits + self.conv(input_ids[:, None].double()).mean((1, 2))[:, None]

        table = measure(Strided(), self.padded(sentences, 30), reduction="pool")
        assert math.isnan(row(table, "conv").tl_out)
        assert not math.isnan(row(table, "inner.classifier").tl_in)
        assert any("attention_mask of 8" in note for note in table.notes)


def test_the_default_loss_is_the_models_own() -> None:
    """∂L/∂W of the shifted labels is that of the model's own loss."""
    model, ids = gpt2(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0), tokens(6, 10)
    head = row(measure(model, [{"input_ids": ids, "labels": ids}]), "transformer.h.0.mlp.c_fc")
    layer = model.transformer.h[0].mlp.c_fc
    (dw,) = torch.autograd.grad(model(input_ids=ids, labels=ids).loss, layer.weight)
    w, dw = layer.weight.detach().mT, dw.mT
    x = w.mT @ dw
    shift = -(x + x.mT)
    expected = functional.cosine_similarity((w.mT @ w).flatten(), shift.flatten(), dim=0)
    assert head.cosine_vc == pytest.approx(float(expected), rel=1e-9)
