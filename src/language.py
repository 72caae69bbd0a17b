"""A small language that a probabilistic grammar makes: four labelled tasks, text to pre-train on, a tokenizer.

    train, validation = examples("ner", 2000, 1000)  # rows with the columns of the task
    tokenizer()

Labels are exact by construction: the polarity of a review is the symbol that it was expanded from, tags and entities
are those of the symbols that its words were, and the relation of a pair is that of the two events it was built from.
Words are as frequent as in a text (the n-th of its class as 1/n), and much of a label is not in the words alone:
guard, guide and judge are nouns or verbs; arden is a person, a place or a part of a firm's name; not and but turn a
review; a hypothesis must be compared with its premise.
"""

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

LEXICON = {  # word class -> part of speech, words
    "GOOD": ("ADJ", "great lovely brilliant warm clever funny superb gentle fresh bright elegant moving vivid witty"),
    "BAD": ("ADJ", "awful dull clumsy cold bland silly dreadful harsh stale grim tedious hollow crude lame"),
    "PLAIN": ("ADJ", "old young small big tall quiet red grey tired strong"),
    "WORK": ("NOUN", "film story play song book scene show novel dance drama"),
    "THING": ("NOUN", "dog guard car cat judge bus horse guide boat fox nurse truck goat coach van owl pilot bike"),
    "KIND": ("NOUN", "animal worker vehicle"),
    "VERB": ("VERB", "guard follow guide help judge meet nurse pass coach watch pilot call"),
    "SAID": ("VERB", "said joined left met praised sued"),
    "VERY": ("ADV", "very quite truly rather"),
    "FIRST": ("PROPN", "anna boris clara dan elena felix greta hugo iris jonas"),
    "NAME": ("PROPN", "arden marlow verin dalton harrow selby corwin lorne tamsin ostrey"),
    "COMPASS": ("PROPN", "north south east west"),
    "FIRM": ("PROPN", "group bank works press"),
}
OTHER = {"the": "DET", "this": "DET", "a": "DET", "was": "AUX", "will": "AUX", "not": "PART", ".": "PUNCT"}
OTHER |= {"and": "CCONJ", "but": "CCONJ", "in": "ADP", "near": "ADP", "from": "ADP", "of": "ADP", "by": "ADP"}
KINDS = {  # word -> the kind of thing that it is
    word: kind
    for i, word in enumerate(LEXICON["THING"][1].split())
    for kind in [("animal", "worker", "vehicle")[i % 3]]
}
ENTITIES = {"Person": "PER", "Place": "LOC", "Firm": "ORG"}
GRAMMAR = {  # symbol -> expansion -> weight; a word in capitals is of that class, any other is itself
    "Sentence": {"Good .": 2, "Bad .": 2, "Event .": 2, "News .": 4},
    "Good": {"GoodClause": 2, "GoodClause and GoodClause": 3, "BadClause but GoodClause": 2},
    "Bad": {"BadClause": 2, "BadClause and BadClause": 3, "GoodClause but BadClause": 2},
    "GoodClause": {"Topic was GOOD": 3, "Topic was VERY GOOD": 2, "Topic was not BAD": 1},
    "BadClause": {"Topic was BAD": 3, "Topic was VERY BAD": 2, "Topic was not GOOD": 1},
    "Topic": {"the WORK": 3, "this PLAIN WORK": 1, "a WORK by Person": 1},
    "Event": {"Being will VERB Being": 2, "Being will not VERB Being": 1, "Being will VERB Being in Place": 1},
    "Being": {"the THING": 3, "the PLAIN THING": 2, "the KIND": 1},
    "News": {"Person SAID Someone": 2, "Person of Firm SAID Someone near Place": 2, "Firm SAID Someone in Place": 2},
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
MAX_LENGTH = 64  # tokens of its longest pair, and to spare
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Row = dict[str, Any]


class Word(NamedTuple):
    """A word, its part of speech and its entity tag."""

    text: str
    tag: str
    entity: str = "O"


@dataclass(frozen=True)
class Event:
    """The ADJECTIVE SUBJECT will (not) VERB the ADJECTIVE OBJECT (in PLACE); empty where there is none."""

    subject: str
    verb: str
    object: str
    subject_adjective: str = ""
    object_adjective: str = ""
    place: str = ""
    negated: bool = False

    def __str__(self) -> str:
        words = ["the", self.subject_adjective, self.subject, "will", "not" if self.negated else "", self.verb]
        words += ["the", self.object_adjective, self.object, "in" if self.place else "", self.place, "."]
        return " ".join(filter(None, words))

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


def relation(premise: Event, hypothesis: Event) -> str:
    """What an affirmative premise says of the hypothesis."""
    if not hypothesis.follows_from(premise):
        return "neutral"
    return "contradiction" if hypothesis.negated else "entailment"


def word(kind: str, rng: random.Random) -> str:
    """A word of a class, the n-th with a frequency that goes as 1/n."""
    words = LEXICON[kind][1].split()
    return rng.choices(words, [1 / n for n in range(1, len(words) + 1)])[0]


def expand(symbol: str, rng: random.Random) -> list[Word]:
    """The words of a symbol of the grammar."""
    if symbol in LEXICON:
        return [Word(word(symbol, rng), LEXICON[symbol][0])]
    if symbol not in GRAMMAR:
        return [Word(symbol, OTHER[symbol])]
    rules = GRAMMAR[symbol]
    chosen = rng.choices(list(rules), list(rules.values()))[0]
    words = [each for part in chosen.split() for each in expand(part, rng)]
    if symbol in ENTITIES:
        words = [w._replace(entity=f"{'I' if i else 'B'}-{ENTITIES[symbol]}") for i, w in enumerate(words)]
    return words


def text(words: list[Word]) -> str:
    return " ".join(w.text for w in words)


def event(rng: random.Random) -> Event:
    """An affirmative event."""
    adjectives = [word("PLAIN", rng) if rng.random() < 0.5 else "" for _ in range(2)]
    place = text(expand("Place", rng)) if rng.random() < 0.5 else ""
    return Event(word("THING", rng), word("VERB", rng), word("THING", rng), *adjectives, place)


def general(premise: Event, rng: random.Random) -> Event:
    """An event that follows from the premise."""
    kept = {name: getattr(premise, name) for name in ("subject_adjective", "object_adjective", "place")}
    kept = {name: value if rng.random() < 0.5 else "" for name, value in kept.items()}
    nouns = {name: getattr(premise, name) for name in ("subject", "object")}
    return replace(premise, **kept, **{k: KINDS[v] if rng.random() < 0.3 else v for k, v in nouns.items()})


def unrelated(premise: Event, rng: random.Random) -> Event:
    """An event that differs from the premise in a word or more, so that it does not follow."""
    while True:
        other = general(premise, rng)
        for name, kind in (("subject", "THING"), ("verb", "VERB"), ("object", "THING"), ("object_adjective", "PLAIN")):
            if rng.random() < 0.6:
                other = replace(other, **{name: word(kind, rng)})
        if not other.follows_from(premise):
            return other


def sentiment_row(rng: random.Random) -> Row:
    label = rng.randrange(2)
    return {"sentence": text(expand(("Bad", "Good")[label], rng)) + " .", "label": label}


def pair_row(rng: random.Random) -> Row:
    premise, label = event(rng), rng.randrange(3)
    hypothesis = (unrelated if label == 1 else general)(premise, rng)
    hypothesis = replace(hypothesis, negated=label == 2 or (label == 1 and rng.random() < 0.5))
    return {"premise": str(premise), "hypothesis": str(hypothesis), "label": label}


def tagged_row(rng: random.Random, column: str) -> Row:
    words = expand("Sentence", rng)
    tags = [w.tag if column == "pos_tags" else w.entity for w in words]
    names = TAGS if column == "pos_tags" else ENTITY_TAGS
    return {"tokens": [w.text for w in words], column: [names.index(tag) for tag in tags]}


def rows(task: str, rng: random.Random) -> Iterator[Row]:
    """Rows of a task (sst2, mnli, pos or ner) without end, no two with the same text."""
    seen = set()
    while True:
        row = (
            sentiment_row(rng)
            if task == "sst2"
            else pair_row(rng)
            if task == "mnli"
            else tagged_row(rng, f"{task}_tags")
        )
        key = str([value for name, value in row.items() if name in ("sentence", "premise", "hypothesis", "tokens")])
        if key not in seen:
            seen.add(key)
            yield row


def examples(task: str, train: int, validation: int, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Training and validation rows of a task; no text is in both."""
    made = rows(task, random.Random(f"{task} {seed}"))
    return [next(made) for _ in range(train)], [next(made) for _ in range(validation)]


def corpus(size: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Text without labels: sentences, and every third an event with one that follows from it."""
    rng = random.Random(f"corpus {seed}")
    texts: list[tuple[str, ...]] = []
    for i in range(size):
        if i % 3:
            texts.append((text(expand("Sentence", rng)),))
        else:
            premise = event(rng)
            texts.append((str(premise), str(general(premise, rng))))
    return texts


def vocabulary() -> list[str]:
    """Every word of the language, after the special tokens."""
    words = {w for _, of_class in LEXICON.values() for w in of_class.split()} | set(OTHER)
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


def pretrain(
    folder: Path, width: int, depth: int, size: int, arguments: TrainingArguments, callbacks: list[TrainerCallback]
) -> None:
    """Make a small BERT by masked-language modelling on the corpus; it is written whole or not at all.

    Args:
        folder: where it and its tokenizer are written.
        width: units of a layer, 16 a head.
        depth: layers.
        size: texts of the corpus.
        arguments: of transformers' Trainer; its folder holds what is not yet whole.
        callbacks: of the Trainer.
    """
    coder = tokenizer()
    shape = BertConfig(
        vocab_size=len(coder),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // 16,
        intermediate_size=4 * width,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.02 * (768 / width) ** 0.5,  # what 0.02 is to BERT's own width
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    arguments.train_sampling_strategy = "random"
    set_seed(arguments.seed)
    trainer = Trainer(
        BertForMaskedLM(shape),
        arguments,
        DataCollatorForLanguageModeling(coder),
        Dataset.from_list([dict(coder(*texts)) for texts in corpus(size)]),
        processing_class=coder,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model()  # in the first process
    if trainer.is_world_process_zero():
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(arguments.output_dir, folder)
    trainer.accelerator.wait_for_everyone()
