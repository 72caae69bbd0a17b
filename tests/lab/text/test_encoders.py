"""From text to a model: tokens, batches, encoders with a head, one line for a bad model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, List, Value
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForSequenceClassification,
)

from lab.errors import ConfigError, DataError
from lab.text import encoders, toy_language
from lab.text.encoders import IGNORED
from lab.text.tasks import TASKS

SENTENCES = Dataset.from_dict({"sentence": ["good", "bad", "so so", "fine"], "label": [1, 0, 0, 1]})


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    encoders.quiet()


def fast(backend: Tokenizer, pad: str, cls: str, sep: str, unknown: str) -> PreTrainedTokenizerFast:
    roles = {"pad_token": pad, "cls_token": cls, "sep_token": sep, "unk_token": unknown}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, model_input_names=inputs, **roles
    )


def word_piece() -> PreTrainedTokenizerFast:
    """Splits nearly every word into letters, and drops a word that cannot be seen."""
    letters = "abcdefghijklmnopqrstuvwxyz."
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, "ar", "##den", *letters, *(f"##{letter}" for letter in letters)]
    ids = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return fast(backend, "[PAD]", "[CLS]", "[SEP]", "[UNK]")


def byte_level(space: bool = True) -> PreTrainedTokenizerFast:
    """Bytes, as RoBERTa's: the space before a word is part of it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "<pad>", "</s>", "<unk>", *letters, "Ġa", "re"]
    ids = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.BPE(ids, [("Ġ", "a"), ("r", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return fast(backend, "<pad>", "<s>", "</s>", "<unk>")


class Letters(PreTrainedTokenizer):
    """A slow tokenizer, in Python: each letter is a token."""

    vocab_size = 256

    def get_vocab(self) -> dict[str, int]:
        return {chr(i): i for i in range(256)}

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token) % 256

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)


AWKWARD = {
    "word pieces": word_piece,
    "bytes": byte_level,
    "whole words": toy_language.tokenizer,
}
WORDS = [
    ["arden", "met", "\u200b", "anna's", "e-mail", "naïve", "."],
    ["so"],
    ["…", "日本", "x" * 9],
    [],
]
TAGS = [[0, 1, 2, 3, 4, 5, 6], [7], [8, 9, 10], []]
TAGGED = Dataset.from_dict(
    {"tokens": WORDS, "ner_tags": TAGS},
    features=Features(tokens=List(Value("string")), ner_tags=List(Value("int64"))),
)


@pytest.fixture(params=AWKWARD)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return AWKWARD[request.param]()


class TestEncode:
    @pytest.mark.parametrize("max_length", [64, 6])
    def test_a_words_label_is_on_its_first_sub_token(self, tokenizer, max_length):
        coded = encoders.encode(TASKS["ner"], TAGGED, tokenizer, max_length)
        for row, words, tags in zip(coded, WORDS, TAGS, strict=True):
            alone = tokenizer(
                words, is_split_into_words=True, truncation=True, max_length=max_length
            )
            expected = [IGNORED] * len(alone["input_ids"])
            for word, tag in enumerate(tags):
                if alone.word_to_tokens(word) is not None:
                    expected[alone.word_to_tokens(word).start] = tag
            assert row["labels"] == expected
            assert row["input_ids"] == alone["input_ids"]
            assert row["length"] == len(alone["input_ids"]) <= max_length

    def test_a_word_that_vanishes_takes_no_other_words_label(self):
        (row, *_) = encoders.encode(TASKS["ner"], TAGGED, word_piece(), 64)
        assert [label for label in row["labels"] if label != IGNORED] == [0, 1, 3, 4, 5, 6]

    def test_every_sentence_keeps_its_own_length_and_label(self, tokenizer):
        coded = encoders.encode(TASKS["sst2"], SENTENCES, tokenizer, 64)
        assert coded["labels"][:] == SENTENCES["label"][:]
        ids = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES["sentence"]]
        assert coded["input_ids"][:] == ids
        assert set(coded.column_names) == {*tokenizer.model_input_names, "labels", "length"}

    def test_pairs_are_joined_by_the_tokenizer(self):
        pair = {"premise": "the dog .", "hypothesis": "a cat ."}
        rows = Dataset.from_list([pair | {"label": 1}])
        (row,) = encoders.encode(TASKS["mnli"], rows, toy_language.tokenizer(), 64)
        coded = toy_language.tokenizer()(*pair.values())
        for name in ("input_ids", "token_type_ids"):
            assert row[name] == coded[name]

    def test_a_slow_tokenizer_is_refused_for_words_and_taken_for_sentences(self):
        slow = Letters(pad_token="\0", model_max_length=64)
        with pytest.raises(DataError, match=r"ner: .* not a fast one.*take another"):
            encoders.encode(TASKS["ner"], TAGGED, slow, 64)
        coded = encoders.encode(TASKS["sst2"], SENTENCES, slow, 64)
        assert coded["length"][:] == [len(sentence) for sentence in SENTENCES["sentence"]]

    @pytest.mark.parametrize("in_sequence", [False, True])
    def test_a_byte_level_tokenizer_of_any_name_sees_where_words_begin(self, in_sequence, tmp_path):
        """Its class does not know add_prefix_space, which RoBERTa's does."""
        saved = byte_level(space=False)
        if in_sequence:
            parts = [pre_tokenizers.Digits(), saved.backend_tokenizer.pre_tokenizer]
            saved.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
        saved.save_pretrained(tmp_path)
        tokenizer = encoders.load_tokenizer(str(tmp_path))
        ids = tokenizer(["are", "are"], is_split_into_words=True)["input_ids"]
        words = tokenizer.convert_ids_to_tokens(ids)
        assert words == ["<s>", "Ġa", "re", "Ġa", "re", "</s>"]


UNIGRAM = [("[PAD]", 0.0), ("[UNK]", 0.0)]
UNIGRAM += [(f"▁{word}", -1.0) for word in ("hello", "big", "world")]
UNIGRAM += [(word, -3.0) for word in ("hello", "big", "world", "▁")]
AS_ONE = [("▁big▁hello", 0.0)]  # a token of two words
PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
META = pre_tokenizers.Metaspace
MARKED = {  # how spaces are marked -> vocabulary, normalizer, pre-tokenizer
    "Gemma": (UNIGRAM, normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "isolated")),
    "Llama": (UNIGRAM, PREPEND, None),
    "never prepended": (UNIGRAM, None, META(prepend_scheme="never")),
    "prepended at first": (UNIGRAM, None, META(prepend_scheme="first")),
    "always prepended": (UNIGRAM, None, META(prepend_scheme="always")),
    "never, not split": (UNIGRAM, None, META(prepend_scheme="never", split=False)),
    "in a sequence": (
        UNIGRAM,
        normalizers.Lowercase(),
        pre_tokenizers.Sequence([META(prepend_scheme="never"), pre_tokenizers.Digits()]),
    ),
    "stripped": (UNIGRAM, normalizers.Strip(), META(prepend_scheme="always")),
}


def save_unigram(folder: Path, vocabulary, normalizer, pre_tokenizer) -> Tokenizer:
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=1))
    if normalizer:
        backend.normalizer = normalizer
    if pre_tokenizer:
        backend.pre_tokenizer = pre_tokenizer
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    BertConfig().save_pretrained(folder)
    return backend


class TestWordsOfATokenizer:
    @pytest.mark.parametrize("kind", MARKED)
    def test_are_the_tokens_that_they_are_in_a_sentence(self, kind, tmp_path):
        backend = save_unigram(tmp_path, *MARKED[kind])
        tokenizer = encoders.load_tokenizer(str(tmp_path))
        words = ["hello", "big", "world", "big"]
        of_text = backend.encode(" ".join(words)).tokens
        coded = tokenizer(words, is_split_into_words=True)
        assert tokenizer.convert_ids_to_tokens(coded["input_ids"])[1:] == of_text[1:]
        assert of_text[1:] == ["▁big", "▁world", "▁big"]
        assert coded.word_ids() == [0, 1, 2, 3]
        assert tokenizer(" ".join(words))["input_ids"] == coded["input_ids"]

    def test_that_begin_in_one_token_are_refused(self, tmp_path):
        save_unigram(tmp_path, UNIGRAM + AS_ONE, PREPEND, None)
        with pytest.raises(DataError, match="other tokens of words than of their text"):
            encoders.load_tokenizer(str(tmp_path))

    @pytest.mark.parametrize("kind", AWKWARD)
    def test_that_are_right_already_stay_as_they_are(self, kind, tmp_path):
        before = AWKWARD[kind]()
        before.save_pretrained(tmp_path)
        BertConfig().save_pretrained(tmp_path)
        after = encoders.load_tokenizer(str(tmp_path))
        assert after.backend_tokenizer.to_str() == before.backend_tokenizer.to_str()


class TestBatches:
    def test_are_padded_to_their_longest_row_and_no_further(self, tokenizer):
        rows = encoders.encode(TASKS["ner"], TAGGED, tokenizer, 64).remove_columns("length")
        batch = encoders.collator(TASKS["ner"], tokenizer)([rows[1], rows[0]])
        longest, shortest = len(rows[0]["input_ids"]), len(rows[1]["input_ids"])
        assert batch["input_ids"].shape == batch["labels"].shape == (2, longest)
        padded = rows[1]["labels"] + [IGNORED] * (longest - shortest)
        assert batch["labels"][0].tolist() == padded
        assert batch["attention_mask"].sum(1).tolist() == [shortest, longest]

    def test_of_sentences_have_one_label_a_row_and_are_padded_to_a_multiple(self):
        coded = encoders.encode(TASKS["sst2"], SENTENCES, word_piece(), 64)
        collate = encoders.collator(TASKS["sst2"], word_piece(), multiple=8)
        batch = collate(list(coded.remove_columns("length")))
        assert batch["labels"].tolist() == SENTENCES["label"][:]
        assert batch["input_ids"].shape == (4, 8)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize(("name", "rows"), [("ner", TAGGED), ("sst2", SENTENCES)])
    def test_labelled_tokens_are_where_a_loop_finds_them(self, name, rows, side, tokenizer):
        tokenizer.padding_side = side
        coded = encoders.encode(TASKS[name], rows, tokenizer, 64).remove_columns("length")
        batch = encoders.collator(TASKS[name], tokenizer)(list(coded))
        mask, classes = encoders.labelled_tokens(batch["labels"], batch["attention_mask"])
        expected_mask, expected = torch.zeros_like(mask), []
        for i, row in enumerate(coded):
            start = 0 if side == "right" else mask.shape[1] - len(row["input_ids"])
            for j, label in enumerate(row["labels"] if name == "ner" else [row["labels"]]):
                if label != IGNORED:
                    expected_mask[i, start + j] = True
                    expected.append(label)
        assert torch.equal(mask, expected_mask)
        assert classes.tolist() == expected


SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE |= {"intermediate_size": 32, "vocab_size": 140, "max_position_embeddings": 40}
DISTIL = {"vocab_size": 140, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
MODELS = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZE)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SIZE, pad_token_id=0)),
    "distilbert": lambda: DistilBertModel(DistilBertConfig(**DISTIL, max_position_embeddings=40)),
    "fine-tuned": lambda: BertForSequenceClassification(BertConfig(**SIZE, num_labels=5)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny encoders of several kinds, with a tokenizer each."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for kind, make in MODELS.items():
        make().save_pretrained(root / kind)
        toy_language.tokenizer().save_pretrained(root / kind)
    return root


def same(some: torch.nn.Module, other: torch.nn.Module) -> dict[str, bool]:
    """Whether each entry of two models' states is the same."""
    pairs = zip(some.state_dict().items(), other.state_dict().values(), strict=True)
    return {name: torch.equal(a, b) for (name, a), b in pairs}


class TestBuild:
    @pytest.mark.parametrize("kind", MODELS)
    def test_any_encoder_gets_a_head_for_the_labels_and_keeps_its_weights(self, kind, saved):
        texts = ["the dog .", "a cat ."]
        tokenizer = toy_language.tokenizer()
        inputs = tokenizer(texts, return_tensors="pt", return_token_type_ids=False)
        stored = load_file(saved / kind / "model.safetensors")
        for tagged, shape in ((False, (2, 3)), (True, (2, 5, 3))):
            model = encoders.build(str(saved / kind), ("x", "y", "z"), tagged, seed=0)
            outputs = model.eval()(**inputs, output_hidden_states=True)
            assert outputs.logits.shape == shape
            assert len(outputs.hidden_states) == 3
            assert model.config.id2label == {0: "x", 1: "y", 2: "z"}
            for name, value in model.base_model.state_dict().items():
                if "pooler" not in name:
                    full = f"{model.base_model_prefix}.{name}"
                    assert torch.equal(value, stored.get(full, stored.get(name)))

    def test_a_seed_draws_the_head_and_nothing_else(self, saved):
        path = str(saved / "bert")
        first, again, other = (encoders.build(path, ("x", "y"), False, s) for s in (0, 0, 1))
        assert all(same(first, again).values())
        differ = {name for name, equal in same(first, other).items() if not equal}
        assert {"classifier.weight"} <= differ
        assert differ <= {"classifier.weight", "bert.pooler.dense.weight"}

    def test_a_random_initialisation_is_drawn_by_the_seed(self, saved):
        path = str(saved / "bert")
        loaded = encoders.build(path, ("x", "y"), True, 0)
        first, again, other = (
            encoders.build(path, ("x", "y"), True, seed, trained=False) for seed in (0, 0, 1)
        )
        assert all(same(first, again).values())
        for name in ("embeddings.word_embeddings", "encoder.layer.1.output.dense"):
            weight = f"bert.{name}.weight"
            assert not same(first, other)[weight]
            assert not same(first, loaded)[weight]
            assert first.state_dict()[weight].std() == pytest.approx(0.02, rel=0.1)

    def test_the_random_numbers_of_others_stay_as_they_are(self, saved):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        encoders.build(str(saved / "bert"), ("x", "y"), True, 0)
        assert torch.equal(torch.rand(1), expected)

    def test_the_fingerprint_is_of_the_encoders_weights(self, saved, tmp_path):
        prints = {kind: encoders.fingerprint(str(saved / kind)) for kind in MODELS}
        assert len(set(prints.values())) == len(MODELS)
        model = BertForMaskedLM.from_pretrained(saved / "bert")
        model.save_pretrained(tmp_path / "same")
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight[3, 3] += 1e-3
        model.save_pretrained(tmp_path / "other")
        assert encoders.fingerprint(str(tmp_path / "same")) == prints["bert"]
        assert encoders.fingerprint(str(tmp_path / "other")) != prints["bert"]


class TestBadModels:
    @pytest.fixture
    def refusal(self) -> Callable[[Path], str]:
        """The one line that loading a model ends with."""

        def call(model: Path) -> str:
            with pytest.raises(DataError) as caught:
                encoders.build(str(model), ("x", "y"), True, 0)
            assert "\n" not in str(caught.value)
            return str(caught.value)

        return call

    def test_a_folder_without_a_model_or_without_weights(self, refusal, tmp_path):
        assert str(tmp_path) in refusal(tmp_path)
        BertConfig(**SIZE).save_pretrained(tmp_path)
        expected = "give a folder with config.json, weights and tokenizer.json"
        assert refusal(tmp_path).endswith(expected)

    def test_a_causal_model_whose_first_token_sees_no_other(self, refusal, tmp_path):
        shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}
        GPT2Model(GPT2Config(**shape, vocab_size=140)).save_pretrained(tmp_path)
        assert refusal(tmp_path).endswith(
            "is causal, its first token sees no other: take one such as BERT"
        )

    def test_damaged_weights_and_those_of_another_network(self, refusal, saved, tmp_path):
        whole = (saved / "bert" / "model.safetensors").read_bytes()
        BertConfig(**SIZE | {"num_hidden_layers": 3}).save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(whole)
        lacks = "is no pre-trained encoder, it lacks bert.encoder.layer.2."
        assert lacks in refusal(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(whole[:1000])
        assert "cannot be loaded" in refusal(tmp_path)

    @pytest.mark.parametrize(("kind", "place"), [("roberta", 0), ("distilbert", -1)])
    @pytest.mark.parametrize("way", ["missing", "of another shape", "of another name"])
    def test_one_tensor_that_is_wrong_is_named(self, refusal, saved, tmp_path, kind, place, way):
        stored = load_file(saved / kind / "model.safetensors")
        names = sorted(name for name in stored if "pooler" not in name)
        name = names[place]
        values = stored.pop(name)
        if way != "missing":
            stored[name if "shape" in way else f"{name}s"] = torch.cat([values, values])
        for path in (saved / kind).iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
        assert f"{name}" in refusal(tmp_path)

    def test_a_head_of_another_size_is_drawn(self, saved):
        model = encoders.build(str(saved / "fine-tuned"), ("x", "y", "z"), False, 0)
        assert model.classifier.weight.shape == (3, 16)

    def test_weights_that_are_not_finite(self, saved, tmp_path):
        model = BertForMaskedLM.from_pretrained(saved / "bert")
        with torch.no_grad():
            model.bert.encoder.layer[1].output.dense.bias[3] = torch.nan
        model.save_pretrained(tmp_path)
        with pytest.raises(DataError, match=r"not finite, encoder.layer.1.output.dense.bias"):
            encoders.fingerprint(str(tmp_path))

    @pytest.mark.parametrize(("kind", "most"), [("bert", 40), ("roberta", 39), ("distilbert", 40)])
    def test_as_many_tokens_as_there_are_positions_and_no_more(self, saved, kind, most):
        tokenizer = encoders.load_tokenizer(str(saved / kind))
        encoders.check_takes(str(saved / kind), "main", tokenizer, most)
        with pytest.raises(ConfigError, match=r"max_length must be (at most|below) 40"):
            encoders.check_takes(str(saved / kind), "main", tokenizer, most + 1)

    def test_a_tokenizer_of_more_tokens_than_the_model_has(self, saved):
        tokenizer = encoders.load_tokenizer(str(saved / "bert"))
        more = 140 - len(tokenizer)
        tokenizer.add_tokens([f"more{i}" for i in range(more)])
        encoders.check_takes(str(saved / "bert"), "main", tokenizer, 8)
        tokenizer.add_tokens(["another"])
        with pytest.raises(DataError, match="vocabulary of 140 tokens, its tokenizer 141"):
            encoders.check_takes(str(saved / "bert"), "main", tokenizer, 8)

    def test_a_vocabulary_of_three(self, refusal, tmp_path):
        BertForMaskedLM(BertConfig(**SIZE | {"vocab_size": 3})).save_pretrained(tmp_path)
        assert "it has a vocabulary of 3 tokens" in refusal(tmp_path)

    def test_a_model_with_a_decoder(self, refusal, tmp_path):
        shape = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        T5ForSequenceClassification(shape).save_pretrained(tmp_path)
        assert "it has a decoder" in refusal(tmp_path)

    def test_a_tokenizer_that_is_missing_or_pads_nothing_or_takes_less(self, tmp_path, saved):
        config = saved / "bert" / "config.json"
        (tmp_path / "config.json").write_bytes(config.read_bytes())
        with pytest.raises(DataError, match=r"no tokenizer.json\): give a folder with config"):
            encoders.load_tokenizer(str(tmp_path))
        tokenizer = toy_language.tokenizer()
        tokenizer.pad_token = None
        tokenizer.save_pretrained(tmp_path)
        with pytest.raises(DataError, match="no padding token: take an encoder"):
            encoders.load_tokenizer(str(tmp_path))
        with pytest.raises(ConfigError, match="max_length must be at most 64, not 65"):
            encoders.load_tokenizer(str(saved / "bert"), max_length=65)


def test_offline_the_hubs_cache_is_read_and_what_it_lacks_is_one_line(saved, tmp_path, monkeypatch):
    folder, commit = tmp_path / "models--someone--tiny", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / commit).symlink_to(saved / "bert")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = encoders.build("someone/tiny", ("x", "y"), True, 0)
    assert model.config.num_hidden_layers == 2
    assert len(encoders.load_tokenizer("someone/tiny")("the dog .")["input_ids"]) == 5
    for load in (encoders.load_tokenizer, encoders.fingerprint):
        with pytest.raises(DataError, match="HF_HUB_OFFLINE is set") as caught:
            load("someone/else")
        assert str(caught.value).startswith("model someone/else cannot be loaded (")
        assert "\n" not in str(caught.value)
