"""The toy language: labels against a parser that does not know how they were drawn."""

import itertools
import random
import re
from collections import Counter

import pytest

from lab.text import toy_language
from lab.text.toy_language import ENTITY_TAGS, KINDS, LABELS, LEXICON, TAGS

WORDS = {kind: set(words.split()) for kind, (_, words) in LEXICON.items()}
TASKS = tuple(LABELS)


@pytest.fixture(scope="module")
def examples() -> dict[str, list[toy_language.Row]]:
    """600 training and 300 validation rows of every task, one after the other."""
    return {task: list(itertools.chain(*toy_language.examples(task, 600, 300))) for task in TASKS}


def text(row: toy_language.Row) -> tuple[str, ...]:
    """What a row says, without its labels."""
    parts = list(row.values())[:-1]
    return tuple(part if isinstance(part, str) else " ".join(part) for part in parts)


def sentiment(sentence: str) -> str:
    """The polarity of the clause after the last but; of clauses joined by and, all must agree."""
    clauses = sentence.removesuffix(" .").rpartition(" but ")[2].split(" and ")
    polarities = set()
    for clause in clauses:
        words = set(clause.split())
        good, bad = WORDS["GOOD"] & words, WORDS["BAD"] & words
        assert len(good) + len(bad) == 1
        polarities.add(bool(good) != ("not" in words))
    assert len(polarities) == 1
    return "positive" if polarities.pop() else "negative"


def weaker(phrase: str) -> set[str]:
    """A phrase, without its adjective, and with the kind of its thing."""
    adjective, _, noun = phrase.rpartition(" ")
    nouns = {noun, KINDS.get(noun, noun)}
    return {f"{a} {n}".strip() for a in {adjective, ""} for n in nouns}


def consequences(premise: str) -> set[str]:
    """Every affirmative sentence that follows from a premise."""
    pattern = r"the (.+) will (\w+) the (.+?)(?: in (.+))? \."
    subject, verb, thing, place = re.fullmatch(pattern, premise).groups()
    places = {"", f" in {place}"} if place else {""}
    parts = itertools.product(weaker(subject), weaker(thing), places)
    return {f"the {s} will {verb} the {o}{p} ." for s, o, p in parts}


def relation(premise: str, hypothesis: str) -> str:
    if hypothesis.replace("will not", "will") not in consequences(premise):
        return "neutral"
    return "contradiction" if "not" in hypothesis else "entailment"


def parts_of_speech(words: list[str]) -> list[str]:
    """A word's class; of those that are nouns and verbs, a verb after will or not."""
    tags = []
    for before, word in zip(["", *words], words, strict=False):
        kinds = {LEXICON[kind][0] for kind, members in WORDS.items() if word in members}
        kinds = kinds or {toy_language.OTHER[word]}
        if kinds == {"NOUN", "VERB"}:
            kinds = {"VERB" if before in ("will", "not") else "NOUN"}
        assert len(kinds) == 1, word
        tags.append(kinds.pop())
    return tags


def entity_tags(words: list[str]) -> list[str]:
    """A firm ends in its word, a place follows in, near or from, all other names are people."""
    kinds = ("NAME", "FIRM", "FIRST", "COMPASS")
    name, firm, first, compass = (f"(?:{'|'.join(sorted(WORDS[kind]))})" for kind in kinds)
    patterns = {
        "ORG": rf"\b{name} {firm}\b",
        "LOC": rf"(?:(?<=\bin )|(?<=\bnear )|(?<=\bfrom ))(?:{compass} )?{name}\b",
        "PER": rf"\b{first}(?: {name})?\b|\b{name}\b",
    }
    sentence, tags = " ".join(words), ["O"] * len(words)
    for kind, pattern in patterns.items():
        for match in re.finditer(pattern, sentence):
            start, length = sentence[: match.start()].count(" "), match.group().count(" ") + 1
            if tags[start] == "O":
                tags[start : start + length] = [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
    return tags


class TestLabels:
    def test_sentiments_are_the_parsers(self, examples):
        for row in examples["sst2"]:
            assert LABELS["sst2"][row["label"]] == sentiment(row["sentence"])

    def test_relations_are_the_parsers(self, examples):
        for row in examples["mnli"]:
            expected = relation(row["premise"], row["hypothesis"])
            assert LABELS["mnli"][row["label"]] == expected

    def test_parts_of_speech_are_the_parsers(self, examples):
        for row in examples["pos"]:
            assert [TAGS[i] for i in row["pos_tags"]] == parts_of_speech(row["tokens"])

    def test_entities_are_the_parsers(self, examples):
        for row in examples["ner"]:
            assert [ENTITY_TAGS[i] for i in row["ner_tags"]] == entity_tags(row["tokens"])

    def test_every_class_occurs_and_classes_of_sentences_are_of_like_size(self, examples):
        for task in TASKS:
            labels = [list(row.values())[-1] for row in examples[task]]
            if task in ("pos", "ner"):
                labels = list(itertools.chain(*labels))
            counts = Counter(labels)
            assert set(counts) == set(range(len(LABELS[task])))
            if task in ("sst2", "mnli"):
                assert min(counts.values()) > 0.8 * max(counts.values())

    def test_a_word_alone_does_not_give_its_label_away(self, examples):
        def labels_of(word: str, task: str) -> Counter[str]:
            rows = ((row["tokens"], row[f"{task}_tags"]) for row in examples[task])
            pairs = (pair for row in rows for pair in zip(*row, strict=True))
            return Counter(LABELS[task][tag] for token, tag in pairs if token == word)

        guard, arden = labels_of("guard", "pos"), labels_of("arden", "ner")
        assert min(guard[tag] for tag in ("NOUN", "VERB")) > 0.1 * guard.total()
        assert {"B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG"} <= set(arden)

    def test_negation_alone_does_not_tell_the_relation(self, examples):
        negated = [row for row in examples["mnli"] if " not " in row["hypothesis"]]
        neutral = [row for row in negated if LABELS["mnli"][row["label"]] == "neutral"]
        assert len(neutral) > 0.25 * len(negated)


class TestExamples:
    @pytest.mark.parametrize("task", TASKS)
    def test_no_text_comes_twice_in_or_across_the_splits(self, task, examples):
        texts = [text(row) for row in examples[task]]
        assert len(set(texts)) == len(texts)

    @pytest.mark.parametrize("task", TASKS)
    def test_a_seed_gives_the_same_rows_whatever_their_number_and_leaves_others_random_numbers(
        self, task, examples
    ):
        random.seed(0)
        expected = random.Random(0).random()
        train, validation = toy_language.examples(task, 20, 10)
        assert random.random() == expected
        assert train + validation == examples[task][:30]
        assert toy_language.examples(task, 20, 10, seed=1) != (train, validation)


class TestCorpus:
    def test_every_third_text_is_a_pair_of_which_the_second_follows(self):
        texts = toy_language.corpus(300)
        assert [len(parts) for parts in texts] == [1 if i % 3 else 2 for i in range(300)]
        assert {relation(*parts) for parts in texts if len(parts) == 2} == {"entailment"}

    def test_frequent_words_are_frequent(self):
        words = " ".join(" ".join(parts) for parts in toy_language.corpus(2000)).split()
        counts, names = Counter(words), LEXICON["NAME"][1].split()
        assert counts[names[0]] > 1.5 * counts[names[2]] > 1.5 * counts[names[8]] > 0


class TestTokenizer:
    def test_knows_every_word_and_cuts_nothing(self, examples):
        tokenizer, longest = toy_language.tokenizer(), 0
        texts = [text(row) for rows in examples.values() for row in rows]
        for parts in (*texts, *toy_language.corpus(300)):
            ids = tokenizer(*parts)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert len(ids) == sum(len(part.split()) for part in parts) + 1 + len(parts)
            longest = max(longest, len(ids))
        assert longest <= toy_language.MAX_LENGTH == tokenizer.model_max_length

    def test_has_the_template_of_bert(self):
        tokenizer = toy_language.tokenizer()
        coded = tokenizer("the dog .", "a cat .")
        tokens = " ".join(tokenizer.convert_ids_to_tokens(coded["input_ids"]))
        assert tokens == "[CLS] the dog . [SEP] a cat . [SEP]"
        assert coded["token_type_ids"] == [0] * 5 + [1] * 4
        assert tokenizer.is_fast

    def test_every_word_of_the_vocabulary_is_there_once(self):
        words = toy_language.vocabulary()
        assert len(set(words)) == len(words)
        expected = set().union(*WORDS.values(), toy_language.OTHER, toy_language.SPECIAL)
        assert set(words) == expected
