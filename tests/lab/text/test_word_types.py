"""Labels permuted between word types: what goes where, on planted words."""

import torch
from datasets import Dataset

from lab.text import word_types
from lab.text.encoders import IGNORED


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_type_takes_over_another_of_about_its_frequency():
    counts = torch.arange(1, 51)  # 50 types, in groups of 20, 20 and 10
    types = torch.arange(50).repeat_interleave(counts)
    types = types[torch.randperm(len(types), generator=source())]
    permuted = word_types.permute_labels(types, types, source())  # a type's label is its own
    pairs = set(zip(types.tolist(), permuted.tolist(), strict=True))
    assert len(pairs) == len({other for _, other in pairs}) == 50  # one for one
    assert all(a // word_types.GROUP == b // word_types.GROUP for a, b in pairs)
    assert sum(a == b for a, b in pairs) < 15


def test_labels_are_those_of_the_other_type_in_turn():
    types = torch.tensor([9, 4, 9, 4, 9])
    labels = torch.tensor([1, 7, 2, 8, 3])
    found = {tuple(word_types.permute_labels(labels, types, source(i)).tolist()) for i in range(20)}
    assert found == {(1, 7, 2, 8, 3), (7, 1, 8, 2, 7)}  # each its own, or swapped


def test_words_are_numbered_row_by_row_and_told_apart_by_their_first_sub_token():
    rows = {"input_ids": [[101, 5, 6, 102], [101, 6, 5, 7, 102]], "length": [4, 5]}
    rows["labels"] = [[IGNORED, 2, IGNORED, IGNORED], [IGNORED, 0, 1, IGNORED, IGNORED]]
    numbered, labels, types = word_types.number_words(Dataset.from_dict(rows))
    assert (labels.tolist(), types.tolist()) == ([2, 0, 1], [5, 6, 5])
    assert list(numbered["labels"]) == [
        [IGNORED, 0, IGNORED, IGNORED],
        [IGNORED, 1, 2, IGNORED, IGNORED],
    ]
    assert list(numbered["input_ids"]) == rows["input_ids"]
