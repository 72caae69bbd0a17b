"""Chance level of tagged words, whose labels are permuted between word types.

To permute labels between rows takes for granted that any row could have any label. Words are not
like that: the same word comes again and again, mostly with the same label, and features that tell
words apart fit any labels of whole words. So a word type takes over the labels of another.

Types change places among those of like frequency. That was chosen after a free permutation had been
seen: it gave the commonest words the labels of rare ones, so that the classes were no longer as
frequent as they are, and a chance level above Target Linearity itself.
"""

import torch
from datasets import Dataset
from torch import Tensor

from lab.text.encoders import IGNORED

GROUP = 20  # word types of neighbouring frequency


def permute_labels(labels: Tensor, types: Tensor, source: torch.Generator) -> Tensor:
    """Each word's label replaced by one of another word type, the same type for all its words.

    Types are permuted among GROUP of about the same frequency, so that the classes stay about as
    frequent as they are. Where the other type has fewer words, its labels are taken in turn.

    Args:
        labels: (N,).
        types: the type of each word (N,), any integers.
        source: draws the permutation.
    """
    _, types, counts = types.unique(return_inverse=True, return_counts=True)
    order = types.argsort(stable=True)  # words by type
    first = counts.cumsum(0) - counts  # where in `order` a type begins
    turn = torch.empty_like(types)  # how many words of its type come before each word
    turn[order] = torch.arange(len(types)) - first[types[order]]
    ties, places = torch.rand(2, len(counts), generator=source, dtype=torch.float64)
    by_frequency = (counts + ties).argsort()
    within = (torch.arange(len(counts)) // GROUP + places).argsort()
    other = torch.empty_like(counts)
    other[by_frequency] = by_frequency[within]
    other = other[types]
    return labels[order[first[other] + turn % counts[other]]]


def number_words(coded: Dataset) -> tuple[Dataset, Tensor, Tensor]:
    """Rows of `encoders.encode` with numbers of words for labels.

    Returns:
        the rows, whose labels are 0, 1, … on the first sub-token of each tagged word and IGNORED
        elsewhere; the words' labels (N,); their types (N,), told apart by the first sub-token.
    """
    tags = list(coded["labels"])
    labels, tokens = (
        torch.tensor([value for row in rows for value in row])
        for rows in (tags, coded["input_ids"])
    )
    tagged = labels != IGNORED
    numbers = torch.where(tagged, tagged.cumsum(0) - 1, IGNORED).split([len(row) for row in tags])
    rows = coded.remove_columns("labels").add_column("labels", [row.tolist() for row in numbers])
    return rows, labels[tagged], tokens[tagged]
