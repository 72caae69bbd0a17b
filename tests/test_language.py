"""The generated language: labels against a parser that knows nothing of how they were made."""

import itertools
import random
import re
from collections import Counter

import pytest

import language
from language import ENTITY_TAGS, KINDS, LABELS, LEXICON, TAGS

WORDS = {kind: set(words.split()) for kind, (_, words) in LEXICON.items()}
TASKS = ("sst2", "mnli", "pos", "ner")


@pytest.fixture(scope="module")
def examples() -> dict[str, list[language.Row]]:
    """600 training and 300 validation rows of every task, one after the other."""
    return {task: list(itertools.chain(*language.examples(task, 600, 300))) for task in TASKS}


def key(row: language.Row) -> str:
    return " ".join(itertools.chain.from_iterable([v] if isinstance(v, str) else v for v in list(row.values())[:-1]))


def sentiment(sentence: str) -> int:
    """The polarity of the clause after the last but; of clauses joined by and, all must agree."""
    clauses = sentence.removesuffix(" .").rpartition(" but ")[2].split(" and ")
    found = set()
    for clause in clauses:
        words = clause.split()
        good, bad = WORDS["GOOD"] & set(words), WORDS["BAD"] & set(words)
        assert len(good) + len(bad) == 1
        found.add(bool(good) != ("not" in words))
    assert len(found) == 1
    return int(found.pop())


def consequences(premise: str) -> set[str]:
    """Every affirmative sentence that follows from a premise: words left out, kinds instead of things."""
    subject, verb, thing, place = re.fullmatch(r"the (.+) will (\w+) the (.+?)(?: in (.+))? \.", premise).groups()

    def weaker(phrase: str) -> set[str]:
        adjective, _, noun = phrase.rpartition(" ")
        return {f"{a} {n}".strip() for a in {adjective, ""} for n in {noun, *([KINDS[noun]] if noun in KINDS else [])}}

    places = {"", f" in {place}"} if place else {""}
    return {
        f"the {s} will {verb} the {o}{p} ." for s, o, p in itertools.product(weaker(subject), weaker(thing), places)
    }


def relation(premise: str, hypothesis: str) -> str:
    follows = hypothesis.replace("will not", "will") in consequences(premise)
    return ("contradiction" if "not" in hypothesis else "entailment") if follows else "neutral"


def tags(words: list[str]) -> list[str]:
    """A word's class, and for those that are nouns and verbs, whether will or not comes before."""
    found = []
    for before, word in zip(["", *words], words, strict=False):
        kinds = {LEXICON[kind][0] for kind, of_kind in WORDS.items() if word in of_kind} or {language.OTHER[word]}
        if kinds == {"NOUN", "VERB"}:
            kinds = {"VERB" if before in ("will", "not") else "NOUN"}
        assert len(kinds) == 1, word
        found.append(kinds.pop())
    return found


def entity_tags(words: list[str]) -> list[str]:
    """By regular expressions: a firm ends in its word, a place follows in, near or from, all other names are people."""
    one = {kind: f"(?:{'|'.join(sorted(WORDS[kind]))})" for kind in ("NAME", "FIRM", "FIRST", "COMPASS")}
    patterns = {
        "ORG": rf"\b{one['NAME']} {one['FIRM']}\b",
        "LOC": rf"(?:(?<=\bin )|(?<=\bnear )|(?<=\bfrom ))(?:{one['COMPASS']} )?{one['NAME']}\b",
        "PER": rf"\b{one['FIRST']}(?: {one['NAME']})?\b|\b{one['NAME']}\b",
    }
    sentence, found = " ".join(words), ["O"] * len(words)
    for kind, pattern in patterns.items():
        for match in re.finditer(pattern, sentence):
            start, length = sentence[: match.start()].count(" "), match.group().count(" ") + 1
            if found[start] == "O":
                found[start : start + length] = [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
    return found


class TestLabels:
    def test_sentiment_is_that_of_the_parser(self, examples):
        assert [row["label"] for row in examples["sst2"]] == [sentiment(row["sentence"]) for row in examples["sst2"]]

    def test_relations_are_those_of_the_parser(self, examples):
        found = [relation(row["premise"], row["hypothesis"]) for row in examples["mnli"]]
        assert found == [LABELS["mnli"][row["label"]] for row in examples["mnli"]]

    def test_parts_of_speech_are_those_of_the_parser(self, examples):
        for row in examples["pos"]:
            assert [TAGS[i] for i in row["pos_tags"]] == tags(row["tokens"])

    def test_entities_are_those_of_the_parser(self, examples):
        for row in examples["ner"]:
            assert [ENTITY_TAGS[i] for i in row["ner_tags"]] == entity_tags(row["tokens"]), row["tokens"]

    @pytest.mark.parametrize("task", ["sst2", "mnli"])
    def test_classes_of_sentences_are_of_like_size(self, task, examples):
        counts = Counter(row["label"] for row in examples[task])
        assert set(counts) == set(range(len(LABELS[task])))
        assert min(counts.values()) > 0.8 * max(counts.values())

    @pytest.mark.parametrize(("task", "column"), [("pos", "pos_tags"), ("ner", "ner_tags")])
    def test_every_class_of_words_occurs(self, task, column, examples):
        assert {tag for row in examples[task] for tag in row[column]} == set(range(len(LABELS[task])))

    def test_a_word_alone_does_not_give_its_label_away(self, examples):
        of_noun_or_verb, of_name = Counter(), Counter()
        for row in examples["pos"]:
            of_noun_or_verb.update(TAGS[t] for w, t in zip(row["tokens"], row["pos_tags"], strict=True) if w == "guard")
        for row in examples["ner"]:
            of_name.update(ENTITY_TAGS[t] for w, t in zip(row["tokens"], row["ner_tags"], strict=True) if w == "arden")
        assert min(of_noun_or_verb[tag] for tag in ("NOUN", "VERB")) > 0.1 * of_noun_or_verb.total()
        assert {"B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG"} <= set(of_name)

    def test_negation_alone_does_not_tell_the_relation(self, examples):
        negated = Counter(row["label"] for row in examples["mnli"] if " not " in row["hypothesis"])
        assert negated[1] > 0.25 * negated.total()


class TestExamples:
    @pytest.mark.parametrize("task", TASKS)
    def test_no_text_comes_twice_in_or_across_the_splits(self, task, examples):
        texts = [key(row) for row in examples[task]]
        assert len(set(texts)) == len(texts)

    @pytest.mark.parametrize("task", TASKS)
    def test_are_the_same_every_time_and_others_for_another_seed(self, task, examples):
        train, validation = language.examples(task, 600, 300)
        assert train + validation == examples[task]
        assert language.examples(task, 20, 10, seed=1) != language.examples(task, 20, 10)

    def test_more_of_them_begin_with_the_same(self, examples):
        assert language.examples("ner", 40, 5)[0] == examples["ner"][:40]

    def test_do_not_touch_the_random_numbers_of_others(self):
        random.seed(0)
        expected = random.Random(0).random()
        language.examples("ner", 20, 10)
        assert random.random() == expected

    def test_frequent_words_are_frequent(self):
        text = " ".join(" ".join(texts) for texts in language.corpus(2000)).split()
        counts, names = Counter(text), LEXICON["NAME"][1].split()
        assert counts[names[0]] > 1.5 * counts[names[2]] > 1.5 * counts[names[8]] > 0


class TestCorpus:
    def test_every_third_text_is_a_pair_of_which_the_second_follows(self):
        texts = language.corpus(300)
        assert [len(text) for text in texts] == [1 if i % 3 else 2 for i in range(300)]
        assert {relation(*text) for text in texts if len(text) == 2} == {"entailment"}


class TestTokenizer:
    def test_knows_every_word_and_cuts_nothing(self, examples):
        tokenizer = language.tokenizer()
        texts = [tuple(v for v in list(row.values())[:-1]) for task in ("sst2", "mnli") for row in examples[task]]
        texts += [(" ".join(row["tokens"]),) for task in ("pos", "ner") for row in examples[task]]
        longest = 0
        for text in [*texts, *language.corpus(300)]:
            ids = tokenizer(*text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert len(ids) == sum(len(part.split()) for part in text) + 1 + len(text)
            longest = max(longest, len(ids))
        assert longest <= language.MAX_LENGTH == tokenizer.model_max_length

    def test_has_the_template_of_bert(self):
        tokenizer = language.tokenizer()
        coded = tokenizer("the dog .", "a cat .")
        assert " ".join(tokenizer.convert_ids_to_tokens(coded["input_ids"])) == "[CLS] the dog . [SEP] a cat . [SEP]"
        assert coded["token_type_ids"] == [0] * 5 + [1] * 4
        assert tokenizer.is_fast

    def test_every_word_of_the_vocabulary_is_there_once(self):
        words = language.vocabulary()
        assert len(set(words)) == len(words)
        assert set(words) - set(language.SPECIAL) == set().union(*WORDS.values(), language.OTHER)
