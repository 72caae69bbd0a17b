"""`measure` reads labels and padding of tokens as transformers' models mean them."""

import math

import pytest
import torch
import transformers
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

from cases import draw
from core.layer_table import LayerTable
from core.linearity import target_linearity
from core.measure import measure
from core.reading import prediction
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
    # transformers takes its loss in float32
    assert head.cosine_vc == pytest.approx(float(expected), rel=1e-7)


class Tagger(nn.Module):
    """A tagger with a loss of its own."""

    def __init__(self, loss) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out, self.loss = nn.Embedding(20, 8), nn.Linear(8, 4), loss
        self.double()

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, object]:
        z = self.out(self.embed(input_ids))
        return {"logits": z, "loss": None if labels is None else self.loss(z, labels)}


def entropy(z: Tensor, y: Tensor, **options: object) -> Tensor:
    return functional.cross_entropy(z.flatten(0, 1), y.flatten(), **options)


def log_likelihood(z: Tensor, y: Tensor) -> Tensor:
    return -z.log_softmax(-1).gather(-1, y[..., None]).mean()


WEIGHTS = {k: torch.eye(4, dtype=torch.float64)[list(k)].sum(0) for k in ((1, 2, 3), (3,), (0,))}
STAY = {
    "class 0 is ignored": lambda z, y: entropy(z, y, ignore_index=0),
    "class 0 has no weight": lambda z, y: entropy(z, y, weight=WEIGHTS[1, 2, 3]),
    "class 3 alone counts": lambda z, y: entropy(z, y, weight=WEIGHTS[3,], reduction="sum"),
    "class 0 alone counts": lambda z, y: entropy(z, y, weight=WEIGHTS[0,], reduction="sum"),
    "likelihood by gather": log_likelihood,
    "the first token is left out": lambda z, y: entropy(z[:, 1:], y[:, 1:]),
    "the last is left out": lambda z, y: entropy(z[:, :-1], y[:, :-1]),
    "a sum over samples of means": lambda z, y: sum(map(log_likelihood, z[:, None], y[:, None])),
    "squared error of one-hot rows": lambda z, y: (z - functional.one_hot(y, 4)).square().mean(),
    "no loss": lambda z, y: None,
    "a loss a token": lambda z, y: entropy(z, y, reduction="none"),
}
RAISES = {
    "nan": lambda z, y: entropy(z, y) * math.nan,
    "infinity": lambda z, y: entropy(z, y) / 0,
    "another at every call": lambda z, y: entropy(z, y) + torch.rand(()),
    "an error": lambda z, y: entropy(z, y[:, :3]),
    "an error of two lines": lambda z, y: functional.cross_entropy("two\nlines", y),
}
MOVE = {
    "plain": lambda z, y: entropy(z[:, :-1], y[:, 1:]),
    "by gather": lambda z, y: log_likelihood(z[:, :-1], y[:, 1:]),
    "class 0 is ignored": lambda z, y: entropy(z[:, :-1], y[:, 1:], ignore_index=0),
    "class 0 has no weight": lambda z, y: entropy(z[:, :-1], y[:, 1:], weight=WEIGHTS[1, 2, 3]),
    "padded": lambda z, y: entropy(z, functional.pad(y, (0, 1), value=-100)[:, 1:]),
}


def tagged(loss, labels: Tensor) -> tuple[LayerTable, float, float]:
    """The table, and Target Linearity by the token's own label and by the next one's."""
    model, ids = Tagger(loss), tokens(40, 7)
    kept = labels != -100
    h = model.embed(ids).detach()
    table = measure(model, [{"input_ids": ids, "labels": labels}], names="out")
    own = target_linearity(h[kept], labels[kept])
    after = kept[:, 1:]
    return table, own, target_linearity(h[:, :-1][after], labels[:, 1:][after])


@pytest.mark.parametrize("first", ["a label", "ignored"])
@pytest.mark.parametrize("loss", STAY.values(), ids=STAY)
def test_a_tagger_of_any_loss_keeps_its_labels(loss, first: str) -> None:
    labels = tokens(40, 7, seed=1) % 4
    if first == "ignored":
        labels[:, 0] = -100
    table, own, _ = tagged(loss, labels)
    assert table[0].tl_in == pytest.approx(own, rel=1e-9)
    assert table[0].n == int((labels != -100).sum())


@pytest.mark.parametrize("loss", RAISES.values(), ids=RAISES)
def test_a_loss_that_cannot_be_asked_is_noted(loss) -> None:
    table, own, _ = tagged(loss, tokens(40, 7, seed=1) % 4)
    assert table[0].tl_in == pytest.approx(own, rel=1e-9)
    (note,) = (note for note in table.notes if note.startswith("labels are taken as they are"))
    assert "\n" not in note


@pytest.mark.parametrize("loss", MOVE.values(), ids=MOVE)
def test_a_model_that_predicts_the_next_label_is_seen_by_any_loss(loss) -> None:
    table, _, following = tagged(loss, tokens(40, 7, seed=1) % 4)
    assert table[0].tl_in == pytest.approx(following, rel=1e-9)
    assert table[0].n == 40 * 6


@pytest.mark.parametrize("classes", [1, 2])
def test_few_classes_in_the_batch_are_enough(classes: int) -> None:
    labels = tokens(40, 7, seed=1) % classes + 2
    for loss, n in ((MOVE["plain"], 240), (STAY["likelihood by gather"], 280)):
        model, ids = Tagger(loss), tokens(40, 7)
        other = {"input_ids": ids, "labels": ids % 4}
        assert measure(model, [{"input_ids": ids, "labels": labels}, other])[0].n == n + n


def test_a_batch_without_labels_decides_nothing() -> None:
    ids = tokens(40, 7)
    empty = {"input_ids": ids, "labels": torch.full_like(ids, -100)}
    batches = [empty, {"input_ids": ids, "labels": ids % 4}]
    for loss, n in ((MOVE["plain"], 240), (lambda z, y: entropy(z, y), 280)):
        table = measure(Tagger(loss), batches)
        assert table[0].n == n
        assert not any("labels are taken" in note for note in table.notes)


SEQ2SEQ = {"d_model": 16, "vocab_size": 60, "decoder_start_token_id": 1, "pad_token_id": 0}
SEQ2SEQ |= {"bos_token_id": 1, "eos_token_id": 2}
LAYERS = {f"{s}_layers": 1 for s in ("encoder", "decoder")}
LAYERS |= {f"{s}_attention_heads": 2 for s in ("encoder", "decoder")}
LAYERS |= {f"{s}_ffn_dim": 24 for s in ("encoder", "decoder")}
IDS = {"input_ids": torch.randint(3, 50, (40, 7), generator=torch.Generator().manual_seed(3))}
IMAGE = {"flattened_patches": draw(40, 5, 2 + 12).abs().floor()}


def pix2struct() -> nn.Module:
    text = {"vocab_size": 60, "hidden_size": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1}
    text |= {"num_heads": 2, "decoder_start_token_id": 1, "pad_token_id": 0}
    vision = {"hidden_size": 16, "patch_embed_hidden_size": 12, "d_ff": 24, "d_kv": 8}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "seq_len": 16}
    config = transformers.Pix2StructConfig(text_config=text, vision_config=vision)
    return transformers.Pix2StructForConditionalGeneration(config)


def seq2seq(name: str, **options: object) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(**SEQ2SEQ, **LAYERS, **options)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


SOURCES = {"max_source_positions": 40, "max_target_positions": 20}
DECODERS = {
    "Whisper": (
        lambda: seq2seq("Whisper", num_mel_bins=8, **SOURCES),
        {"input_features": draw(40, 8, 80)},
    ),
    "Speech2Text": (
        lambda: seq2seq("Speech2Text", input_feat_per_channel=40, **SOURCES),
        {"input_features": draw(40, 8, 40)},
    ),
    "M2M100": (lambda: seq2seq("M2M100"), IDS),
    "Blenderbot": (lambda: seq2seq("Blenderbot"), IDS),
    "BlenderbotSmall": (lambda: seq2seq("BlenderbotSmall"), IDS),
    "MBart": (lambda: seq2seq("MBart"), IDS),
    "Bart": (lambda: seq2seq("Bart"), IDS),
    "Pegasus": (lambda: seq2seq("Pegasus"), IDS),
    "Pix2Struct": (pix2struct, IMAGE),
}


@pytest.mark.parametrize(("build", "inputs"), DECODERS.values(), ids=DECODERS)
def test_a_decoder_whose_inputs_are_made_in_the_forward(build, inputs) -> None:
    torch.manual_seed(0)
    model = build().double().eval()
    labels = torch.randint(3, 50, (40, 6), generator=torch.Generator().manual_seed(4))
    labels[::2, 4:] = -100
    kept = labels != -100
    name, head = next(
        (n, m) for n, m in model.named_modules() if n.endswith(("lm_head", "proj_out"))
    )
    h = head_inputs(model, head, **inputs, labels=labels)
    table = measure(model, [{**inputs, "labels": labels}], gradients_of_outputs=False)
    measured = row(table, name)
    assert measured.n == int(kept.sum())
    assert measured.tl_in == pytest.approx(target_linearity(h[kept], labels[kept]), rel=1e-9)


def test_a_loss_before_the_prediction_is_passed_over() -> None:
    logits = draw(3, 4)
    assert prediction((logits.sum(), logits, draw(2, 2)), None) is logits
    assert prediction((logits, logits.sum()), None) is logits
