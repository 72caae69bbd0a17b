"""A toy language from a probabilistic grammar: four labelled tasks, a corpus, a tokenizer.

    train, validation = examples("ner", 2000, 1000)  # rows with the columns of the task
    tokenizer()

Labels are exact by construction: the polarity of a review is the symbol that it was expanded from,
tags and entities are those of the symbols that its words came from, and the relation of a pair is
the relation of the two events behind it. The n-th word of a class has a frequency of 1/n, as words
in a text do, and words alone do not give their labels away: guard, guide and judge are nouns or
verbs; arden is a person, a place or a part of a firm's name; not and but reverse a review; a
hypothesis must be compared with its premise.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

LEXICON = {  # word class -> part of speech, words
    "GOOD": (
        "ADJ",
        "great lovely brilliant warm clever funny superb gentle fresh bright elegant moving vivid "
        "witty",
    ),
    "BAD": (
        "ADJ",
        "awful dull clumsy cold bland silly dreadful harsh stale grim tedious hollow crude lame",
    ),
    "PLAIN": ("ADJ", "old young small big tall quiet red grey tired strong"),
    "WORK": ("NOUN", "film story play song book scene show novel dance drama"),
    "THING": (
        "NOUN",
        "dog guard car cat judge bus horse guide boat fox nurse truck goat coach van owl pilot "
        "bike",
    ),
    "KIND": ("NOUN", "animal worker vehicle"),
    "VERB": ("VERB", "guard follow guide help judge meet nurse pass coach watch pilot call"),
    "SAID": ("VERB", "said joined left met praised sued"),
    "VERY": ("ADV", "very quite truly rather"),
    "FIRST": ("PROPN", "anna boris clara dan elena felix greta hugo iris jonas"),
    "NAME": ("PROPN", "arden marlow verin dalton harrow selby corwin lorne tamsin ostrey"),
    "COMPASS": ("PROPN", "north south east west"),
    "FIRM": ("PROPN", "group bank works press"),
}
_FUNCTION_WORDS = {
    "DET": "the this a",
    "AUX": "was will",
    "PART": "not",
    "PUNCT": ".",
    "CCONJ": "and but",
    "ADP": "in near from of by",
}
OTHER = {word: tag for tag, words in _FUNCTION_WORDS.items() for word in words.split()}
KINDS = {  # thing -> its kind
    thing: ("animal", "worker", "vehicle")[i % 3]
    for i, thing in enumerate(LEXICON["THING"][1].split())
}
ENTITIES = {"Person": "PER", "Place": "LOC", "Firm": "ORG"}  # symbol -> tag
GRAMMAR = {  # symbol -> expansion -> weight; capitals are a class of words, small letters a word
    "Sentence": {"Good .": 2, "Bad .": 2, "Event .": 2, "News .": 4},
    "Good": {"GoodClause": 2, "GoodClause and GoodClause": 3, "BadClause but GoodClause": 2},
    "Bad": {"BadClause": 2, "BadClause and BadClause": 3, "GoodClause but BadClause": 2},
    "GoodClause": {"Topic was GOOD": 3, "Topic was VERY GOOD": 2, "Topic was not BAD": 1},
    "BadClause": {"Topic was BAD": 3, "Topic was VERY BAD": 2, "Topic was not GOOD": 1},
    "Topic": {"the WORK": 3, "this PLAIN WORK": 1, "a WORK by Person": 1},
    "Event": {
        "Being will VERB Being": 2,
        "Being will not VERB Being": 1,
        "Being will VERB Being in Place": 1,
    },
    "Being": {"the THING": 3, "the PLAIN THING": 2, "the KIND": 1},
    "News": {
        "Person SAID Someone": 2,
        "Person of Firm SAID Someone near Place": 2,
        "Firm SAID Someone in Place": 2,
    },
    "Someone": {"Person": 2, "Firm": 2, "the THING": 1, "Person from Place": 1},
    "Person": {"FIRST": 1, "FIRST NAME": 2, "NAME": 2},
    "Place": {"NAME": 2, "COMPASS NAME": 1},
    "Firm": {"NAME FIRM": 1},
}
TAGS = ("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "NOUN", "PART", "PROPN", "PUNCT", "VERB")
ENTITY_TAGS = ("O", *(f"{part}-{kind}" for kind in ENTITIES.values() for part in "BI"))
LABELS = {
    "sst2": ("negative", "positive"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "pos": TAGS,
    "ner": ENTITY_TAGS,
}
MAX_LENGTH = 64  # tokens, more than the longest pair has
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Row = dict[str, Any]


class Word(NamedTuple):
    """A word with its part of speech and its entity tag."""

    text: str
    tag: str
    entity: str = "O"


@dataclass(frozen=True)
class Event:
    """The ADJECTIVE SUBJECT will (not) VERB the ADJECTIVE OBJECT (in PLACE); "" where absent."""

    subject: str
    verb: str
    object: str
    subject_adjective: str = ""
    object_adjective: str = ""
    place: str = ""
    negated: bool = False

    def __str__(self) -> str:
        negation, place = "not" if self.negated else "", f"in {self.place}" if self.place else ""
        subject = ("the", self.subject_adjective, self.subject)
        words = (*subject, "will", negation, self.verb, "the", self.object_adjective, self.object)
        return " ".join(filter(None, (*words, place, ".")))

    def follows_from(self, premise: "Event") -> bool:
        """Whether it happens whenever the premise does, negation apart."""
        nouns = ((self.subject, premise.subject), (self.object, premise.object))
        return (
            self.verb == premise.verb
            and all(mine in (its, KINDS.get(its)) for mine, its in nouns)
            and self.subject_adjective in ("", premise.subject_adjective)
            and self.object_adjective in ("", premise.object_adjective)
            and self.place in ("", premise.place)
        )


def draw_word(word_class: str, rng: random.Random) -> str:
    """A word of a class, the n-th with a probability proportional to 1/n."""
    words = LEXICON[word_class][1].split()
    return rng.choices(words, [1 / n for n in range(1, len(words) + 1)])[0]


def expand(symbol: str, rng: random.Random) -> list[Word]:
    """The words of a symbol of the grammar."""
    if symbol in LEXICON:
        return [Word(draw_word(symbol, rng), LEXICON[symbol][0])]
    if symbol not in GRAMMAR:
        return [Word(symbol, OTHER[symbol])]
    rules = GRAMMAR[symbol]
    chosen = rng.choices(list(rules), list(rules.values()))[0]
    words = [word for part in chosen.split() for word in expand(part, rng)]
    if symbol in ENTITIES:
        first, *rest = words
        kind = ENTITIES[symbol]
        words = [first._replace(entity=f"B-{kind}")]
        words += [word._replace(entity=f"I-{kind}") for word in rest]
    return words


def join(words: list[Word]) -> str:
    return " ".join(word.text for word in words)


def draw_event(rng: random.Random) -> Event:
    """An affirmative event."""
    adjectives = [draw_word("PLAIN", rng) if rng.random() < 0.5 else "" for _ in range(2)]
    place = join(expand("Place", rng)) if rng.random() < 0.5 else ""
    subject, verb, thing = (draw_word(kind, rng) for kind in ("THING", "VERB", "THING"))
    return Event(subject, verb, thing, *adjectives, place)


def entailed(premise: Event, rng: random.Random) -> Event:
    """An event that follows from the premise: it leaves words out, or names kinds of things."""
    details = ("subject_adjective", "object_adjective", "place")
    kept = {name: getattr(premise, name) if rng.random() < 0.5 else "" for name in details}
    nouns = {name: getattr(premise, name) for name in ("subject", "object")}
    nouns = {name: KINDS[noun] if rng.random() < 0.3 else noun for name, noun in nouns.items()}
    return replace(premise, **kept, **nouns)


def unrelated(premise: Event, rng: random.Random) -> Event:
    """An event that differs from the premise in one or more words and does not follow from it."""
    parts = {"subject": "THING", "verb": "VERB", "object": "THING", "object_adjective": "PLAIN"}
    while True:
        other = entailed(premise, rng)
        for name, word_class in parts.items():
            if rng.random() < 0.6:
                other = replace(other, **{name: draw_word(word_class, rng)})
        if not other.follows_from(premise):
            return other


def sentiment_row(rng: random.Random) -> Row:
    label = rng.randrange(2)
    return {"sentence": join(expand(("Bad", "Good")[label], rng)) + " .", "label": label}


def pair_row(rng: random.Random) -> Row:
    premise, label = draw_event(rng), rng.randrange(3)
    relation = LABELS["mnli"][label]
    hypothesis = (unrelated if relation == "neutral" else entailed)(premise, rng)
    negated = relation == "contradiction" or (relation == "neutral" and rng.random() < 0.5)
    hypothesis = replace(hypothesis, negated=negated)
    return {"premise": str(premise), "hypothesis": str(hypothesis), "label": label}


def pos_row(rng: random.Random) -> Row:
    words = expand("Sentence", rng)
    tags = [TAGS.index(word.tag) for word in words]
    return {"tokens": [word.text for word in words], "pos_tags": tags}


def ner_row(rng: random.Random) -> Row:
    words = expand("Sentence", rng)
    tags = [ENTITY_TAGS.index(word.entity) for word in words]
    return {"tokens": [word.text for word in words], "ner_tags": tags}


_ROWS: dict[str, Callable[[random.Random], Row]] = {
    "sst2": sentiment_row,
    "mnli": pair_row,
    "pos": pos_row,
    "ner": ner_row,
}


def rows(task: str, rng: random.Random) -> Iterator[Row]:
    """Rows of a task (sst2, mnli, pos or ner) without end, no two with the same text."""
    seen = set()
    while True:
        row = _ROWS[task](rng)
        text = str(list(row.values())[:-1])  # all columns but the last, the labels
        if text not in seen:
            seen.add(text)
            yield row


def examples(task: str, train: int, validation: int, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Training and validation rows of a task; no text is in both."""
    endless = rows(task, random.Random(f"{task} {seed}"))
    return [next(endless) for _ in range(train)], [next(endless) for _ in range(validation)]


def corpus(size: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Text without labels: sentences, and every third an event with one that follows from it."""
    rng = random.Random(f"corpus {seed}")
    texts: list[tuple[str, ...]] = []
    for i in range(size):
        if i % 3:
            texts.append((join(expand("Sentence", rng)),))
        else:
            premise = draw_event(rng)
            texts.append((str(premise), str(entailed(premise, rng))))
    return texts


def vocabulary() -> list[str]:
    """Every word of the language, after the special tokens."""
    words = {word for _, words in LEXICON.values() for word in words.split()} | set(OTHER)
    return [*SPECIAL, *sorted(words)]


def tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer of whole words with BERT's template, made in memory."""
    ids = {name: i for i, name in enumerate(vocabulary())}
    backend = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
    )
    roles = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=MAX_LENGTH, model_input_names=inputs, **roles
    )
