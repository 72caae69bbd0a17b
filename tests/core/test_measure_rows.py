"""Rows stand beside the targets of their own samples, whatever the shapes say."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from cases import draw
from core.layer_table import LayerRow
from core.linearity import target_linearity
from core.measure import measure

N, CLASSES = 24, 4
Y = torch.arange(N) % CLASSES
X = draw(N, 6)


class Inside(nn.Module):
    """A layer whose inputs another function makes, and whose outputs it takes back."""

    def __init__(self, give: Callable, take: Callable) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.give, self.take = give, take
        self.first, self.layer, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.head(self.take(h, self.layer(self.give(h)).tanh()))


def order(h: Tensor) -> Tensor:
    return h.detach().flatten(1).sum(1).argsort()


class Backbone(Inside):
    """Tokens (N, T, 6), pooled at the end."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        z = self.take(h, self.layer(self.give(h)).tanh())
        return self.head(z.mean(1))


FOREIGN = {
    "sorted": Inside(lambda h: h[order(h)], lambda h, z: z[order(h).argsort()]),
    "rolled": Inside(lambda h: h.roll(1, 0), lambda h, z: z.roll(-1, 0)),
    "two exchanged": Inside(
        lambda h: h[[1, 0, *range(2, N)]], lambda h, z: z[[1, 0, *range(2, N)]]
    ),
    "flipped": Inside(lambda h: h.flip(0), lambda h, z: z.flip(0)),
    "other samples as well": Inside(lambda h: h, lambda h, z: z + z.mean(0)),
    "attention between samples": Inside(lambda h: h, lambda h, z: (z @ z.mT).softmax(1) @ z),
    "T = N, the sequence first": Backbone(
        lambda h: h.transpose(0, 1), lambda h, z: z.transpose(0, 1)
    ),
}
OWN = {
    "plain": Inside(lambda h: h, lambda h, z: z),
    "a residual": Inside(lambda h: h, lambda h, z: h + z),
    "tokens": Backbone(lambda h: h, lambda h, z: z),
    "attention between tokens": Backbone(lambda h: (h @ h.mT).softmax(-1) @ h, lambda h, z: z),
    "standing probabilities": Inside(lambda h: h.softmax(1), lambda h, z: z.softmax(1)),
}


def table(model: nn.Module, size: int = N):
    x = draw(N, N, 6) if isinstance(model, Backbone) else X
    batches = list(zip(x.split(size), Y.split(size), strict=True))
    return measure(model, batches, reduction="pool"), x


def named(rows: list[LayerRow], name: str) -> LayerRow:
    return next(row for row in rows if row.name == name)


@pytest.mark.parametrize("model", FOREIGN.values(), ids=FOREIGN)
def test_rows_of_other_samples_have_no_target_linearity(model: nn.Module) -> None:
    rows, _ = table(model)
    row = named(rows, "layer")
    assert all(map(math.isnan, (row.tl_in, row.tl_out, row.nc1, row.cka_in)))
    assert not math.isnan(row.cosine_vc)
    reasons = [note for note, names in rows.notes.items() if "layer" in names]
    assert any("depends on rows of others" in reason for reason in reasons)
    assert not math.isnan(named(rows, "head").tl_in)


@pytest.mark.parametrize("size", [N, 5, 1])
@pytest.mark.parametrize("model", OWN.values(), ids=OWN)
def test_rows_of_the_samples_themselves_have_theirs(model: nn.Module, size: int) -> None:
    rows, x = table(model, size)
    with torch.no_grad():
        h = model.first(x).tanh()
        given = model.give(h)
    h, given = (t.reshape(N, -1, 5).mean(1) for t in (h, given))
    assert named(rows, "layer").tl_in == pytest.approx(target_linearity(given, Y), rel=1e-9)
    assert not any("rows" in note for note in rows.notes)


class Experts(nn.Module):
    """The first of two experts is given the tokens with the largest first entries, N of them."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.one, self.two = tokens, nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        chosen = rows[:, 0].argsort(descending=True)
        first, rest = chosen[: self.tokens], chosen[self.tokens :]
        z = torch.zeros_like(rows)
        z[first], z[rest] = self.one(rows[first]), self.two(rows[rest])
        return self.head(z.view(x.shape).tanh().mean(1))


@pytest.mark.parametrize("later", [False, True])
def test_an_expert_that_is_given_as_many_tokens_as_there_are_samples(later: bool) -> None:
    model, x = Experts(N), draw(N, 3, 6)
    batches = [(x, Y)]
    if later:  # it is called for the first time in the second batch
        model.tokens, batches = 0, [(x, Y), (x, Y)]
        model.head.register_forward_hook(lambda *_: setattr(model, "tokens", N))
        model.one.forward = lambda h, layer=model.one: (
            nn.functional.linear(h, layer.weight, layer.bias) if len(h) else h
        )
    rows = measure(model, batches, reduction="pool")
    assert math.isnan(named(rows, "one").tl_in)
    assert any("one" in names and "others" in note for note, names in rows.notes.items())


def seq2seq() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(
        T5Config(vocab_size=12, **shape, decoder_start_token_id=0)
    ).double()


def test_an_encoder_beside_targets_of_equal_length() -> None:
    g = torch.Generator().manual_seed(0)
    ids, labels = (torch.randint(1, 12, (N, 6), generator=g) for _ in range(2))
    rows = measure(seq2seq(), [{"input_ids": ids, "labels": labels}], gradients_of_outputs=False)
    for row in rows:
        of_encoder = row.name.startswith("encoder") or ".EncDecAttention." in row.name
        if ".EncDecAttention.q" in row.name or ".EncDecAttention.o" in row.name:
            of_encoder = False  # queries and outputs are the decoder's
        assert math.isnan(row.tl_in) == of_encoder, row.name
    reasons = [note for note, names in rows.notes.items() if any("encoder" in n for n in names)]
    assert any("later rows" in reason for reason in reasons)


def test_tokens_that_see_each_other_keep_their_targets() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=12, **shape, intermediate_size=16, num_labels=3)
    model = BertForTokenClassification(config).double()
    ids = torch.randint(1, 12, (N, 6), generator=torch.Generator().manual_seed(0))
    rows = measure(model, [{"input_ids": ids, "labels": ids % 3}], gradients_of_outputs=False)
    assert not any(math.isnan(row.tl_in) for row in rows if "pooler" not in row.name)


def test_where_no_gradient_arrives_the_shapes_decide_with_a_note() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 5).double(), nn.Linear(5, CLASSES).double()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.body(x).tanh()
            return self.head(h)

    rows = measure(Frozen(), [(X, Y)])
    assert rows[0].tl_in == pytest.approx(target_linearity(X, Y), rel=1e-9)
    (note,) = (note for note in rows.notes if "by their shape" in note)
    assert rows.notes[note] == ["body"]
