"""Planted results: the theorems, on the networks that meet their assumptions."""

import numpy as np
import pytest

from experiment import statements
from lab import results
from planted_results import DATA, around, judge, our_verdict, outcomes, plant, verdict
from report.rules import lemmas, propositions
from report.rules import statements as statements_rules

RATES = np.array([1.0, 0.01, 0.1])
SHAPE = (3, 2, 3)  # seed, epoch, layer
WIGGLE = 1 + 1e-3 * np.arange(3)[:, None, None]


def plant_network(root, network, **arrays):
    """A network's result, with these arrays."""
    settings = {"network": network, "dataset": DATA.name}
    plant(root, statements, f"planted-{network}", arrays, **settings)


def layers(last, first=None):
    """A value by layer before training and at the end."""
    rows = [last if first is None else first, last]
    return np.array(rows, dtype=float) * WIGGLE


def by_rate(values):
    """A value by rate, the same at every epoch and layer."""
    return np.broadcast_to(np.array(values)[:, None], (3, 2, 3, 3)) * WIGGLE[..., None]


def everywhere(value, shape, odd=None):
    """One value everywhere, and perhaps another at one seed, epoch and layer."""
    values = np.full(shape, float(value))
    if odd is not None:
        values[1, 0, ..., 1] = odd
    return values


@pytest.mark.parametrize(
    ("network", "changes", "words", "own"),
    [
        ("relu", {}, "true, tight, useful", "holds"),
        ("relu", {"signs_unit": 0.99}, "true in part, tight, useful", "holds"),
        ("gelu", {"signs_unit": 0.99}, "true, tight, useful", "holds"),  # not monotone
        ("tanh", {"bound_unit": 0.999}, "true in part, tight, useful", "holds"),
        ("tanh", {"bound_unit": 0.999, "signs_unit": 0.9}, "not true, tight, useful", "holds"),
        ("tanh", {"bound_own": 0.3}, "true, tight, useful", "does not hold"),
        ("relu", {"most": 0.4}, "true, not tight, useful", "holds"),
        ("relu", {"share": 0.05}, "true, tight, not useful", "holds"),
    ],
)
def test_proposition_1_has_no_exceptions(tmp_path, network, changes, words, own):
    arrays, shape = {}, (3, 2, 3, 2)  # seed, epoch, rate, hidden layer
    planted = {"bound_unit": 1, "signs_unit": 1, "bound_own": 1}
    for name, value in planted.items():
        arrays[f"activation_{name}"] = everywhere(value, shape, changes.get(name))
    for name, value in {"most": 0.9, "share": 0.4}.items():
        arrays[f"activation_{name}"] = around(changes.get(name, value))[:, None, None, None]
        arrays[f"activation_{name}"] = arrays[f"activation_{name}"] * np.ones(shape)
    plant_network(tmp_path, network, **arrays)
    assert verdict(tmp_path, propositions.proposition_1, "statements") == words
    assert our_verdict(tmp_path, propositions.proposition_1, "statements") == own


def test_a_replica_that_diverged_is_no_exception_to_a_theorem(tmp_path):
    names = ("bound_unit", "signs_unit", "bound_own", "most", "share")
    arrays = {f"activation_{name}": np.ones((3, 2, 3, 2)) for name in names}
    for array in arrays.values():
        array[1, 1] = np.nan
    plant_network(tmp_path, "relu", **arrays, rate=RATES)
    assert verdict(tmp_path, propositions.proposition_1, "statements").startswith("not true")
    (path,) = (tmp_path / "paper" / "statements").glob("*.npz")
    result = results.read(path)
    gone = {"seed": 1, "options": {}, "settings": {}, "epoch": 1}
    results.write(path, results.Result(result.arrays, result.meta | {"diverged": [gone]}))
    words = verdict(tmp_path, propositions.proposition_1, "statements")
    assert words == "true, tight, useful"
    kept = results.read(path).without_diverged()
    assert kept["seed"].tolist() == [0, 2]
    assert kept["activation_most"].shape == (2, 2, 3, 2)
    assert kept["rate"].tolist() == RATES.tolist()


def test_proposition_1_is_of_three_networks(tmp_path):
    plant_network(tmp_path, "linear", loss=np.ones((3, 2)))
    assert verdict(tmp_path, propositions.proposition_1, "statements") == "not run"


@pytest.mark.parametrize(
    ("bound", "refined", "ours", "words", "own"),
    [
        (-1.5, 0.2, 0.4, "true, not tight, not useful", "holds"),
        (0.45, 0.2, 0.4, "true, tight, useful", "holds"),
        (0.2, 0.2, 0.4, "true, not tight, useful", "holds"),
        (0.7, 0.2, 0.4, "not true, tight, useful", "holds"),
        (-1.5, 0.7, 0.4, "true, not tight, not useful", "holds in part"),  # not a bound
        (-1.5, -0.1, 0.4, "true, not tight, not useful", "holds in part"),  # says nothing
        (-1.5, 0.2, 0.7, "true, not tight, not useful", "holds in part"),  # of TL₁
    ],
)
def test_theorem_2_must_hold_and_say_something(tmp_path, bound, refined, ours, words, own):
    wiggle = 1e-4 * np.arange(3)[:, None, None, None]
    values = {"theorem2_bound": bound, "theorem2_refined": refined}
    arrays = {"ridge_tl": np.full((3, 2, 4, 3), 0.5)}
    for name, value in values.items():
        arrays[name] = np.full((3, 2, 4, 3), -9.0)
        arrays[name][:, 1, 1, 1] = value
        arrays[name] += wiggle
    arrays |= {"tl_intercept": layers([0.6] * 3)}
    arrays |= dict.fromkeys(("tl_bound", "tl_bound_line"), layers([0.3] * 3))
    arrays["tl_bound_columns"] = layers([0.4, ours, 0.4])
    plant_network(tmp_path, "gelu", **arrays)
    plant_network(tmp_path, "cnn", loss=np.ones((3, 2)))  # has no such arrays
    assert verdict(tmp_path, statements_rules.theorem_2, "statements") == words
    assert our_verdict(tmp_path, statements_rules.theorem_2, "statements") == own


CHANGE = np.array([[4.0, 4, 4], [8, 8, 8], [1e-3, 1e-3, 1e-3], [2e-3, -1e-3, 1e-3]])  # epoch, layer
SURROGATE = np.array([[1.0, 1, 1], [2, 2, 2], [9, 9, 9], [10, 10, 10]])


def plant_theorem_3(root, ratio, network="relu"):
    """ratio: predicted over actual, (epoch, layer)."""
    change, surrogate = (x * WIGGLE for x in (CHANGE, SURROGATE))
    arrays = {"surrogate_change": change, "predicted_change": change * np.array(ratio)}
    plant_network(root, network, surrogate=surrogate, **arrays)


ONE = np.ones((4, 3))


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (ONE, "true, tight, useful"),
        (ONE * [1, 1, -9], "true, tight, useful"),  # the last layer decides nothing
        # moments of little change count little, and the last, after which S does not rise, nothing
        (ONE * [[1], [1], [-5], [-5]], "true, tight, useful"),
        (ONE * [[1], [3], [1], [1]], "true, not tight, useful"),
        (ONE * [[1], [0.2], [1], [1]], "true, not tight, not useful"),
        (ONE * [[1], [-1], [1], [1]], "not true, not tight, not useful"),
    ],
)
def test_theorem_3_counts_by_what_the_surrogate_changes_while_it_rises(tmp_path, ratio, words):
    plant_theorem_3(tmp_path, ratio)
    plant_theorem_3(tmp_path, -ONE, "linear")  # not asked
    assert verdict(tmp_path, statements_rules.theorem_3, "statements") == words


def test_theorem_3_is_of_any_degree(tmp_path):
    plant_theorem_3(tmp_path, ONE)
    plant_theorem_3(tmp_path, -ONE, "squared_relu")
    words = "true in part, tight in part, useful in part"
    assert verdict(tmp_path, statements_rules.theorem_3, "statements") == words


@pytest.mark.parametrize(
    ("after", "before", "euler", "lemma"),
    [
        ([0.4, 0.3, 0.0], [0.6, 0.5, 0.0], 1e-15, "true, tight, useful"),
        ([0.9, 0.3, 0.0], [0.6, 0.5, 0.0], 1e-15, "true, not tight, useful"),
        ([1.2, 0.3, 0.0], [0.6, 0.5, 0.0], 1e-15, "true, not tight, not useful"),
        ([0.4, 0.3, 9.0], [2.0, 2.0, 9.0], 1e-15, "true, tight, useful"),  # the last, and before
        ([0.4, 0.3, 0.0], [0.6, 0.5, 0.0], 1e-3, "not true, tight, useful"),
    ],
)
def test_lemma_3_relative_to_the_differences(tmp_path, after, before, euler, lemma):
    exact = np.full(SHAPE, 1e-15)
    exact[1, 0, 1] = euler
    plant_network(tmp_path, "relu", taylor_error=layers(after, before), euler_error=exact)
    nine = layers([9.0] * 3)
    plant_network(tmp_path, "linear", taylor_error=nine, euler_error=nine)  # not asked
    assert verdict(tmp_path, lemmas.lemma_3, "statements") == lemma


@pytest.mark.parametrize(
    ("after", "before", "paper", "own"),
    [
        ([0.4, 0.3, 0.0], [0.5, 0.6, 0.5], "holds", "holds; control met"),
        ([0.4, 0.3, 0.0], [0.6, 0.5, 0.0], "holds", "holds; control not met"),
        ([0.4, 0.3, 0.0], [0.1, 0.2, 0.1], "holds", "does not hold; control met"),
        ([0.3, 0.4, 0.0], [0.6, 0.5, 0.0], "does not hold", "holds; control not met"),
    ],
)
def test_the_fall_with_depth_and_what_it_was_before(tmp_path, after, before, paper, own):
    arrays = {"taylor_error": layers(after, before), "euler_error": np.zeros(SHAPE)}
    plant_network(tmp_path, "squared_relu", **arrays)
    assert verdict(tmp_path, lemmas.sequential_linearisation, "statements") == paper
    assert our_verdict(tmp_path, lemmas.sequential_linearisation, "statements") == own


@pytest.mark.parametrize(
    ("after", "before", "paper", "own"),
    [
        ([0.3, 0.2, 0.0], [0.3, 0.2, 0.0], "holds", "holds"),
        ([0.3, 0.2, 0.0], [9.0, 9.0, 0.0], "holds", "does not hold"),
        ([0.3, 0.6, 0.0], [9.0, 9.0, 0.0], "does not hold", "does not hold"),
        ([0.3, 0.2, 9.0], [0.3, 0.2, 9.0], "holds", "holds"),  # the last layer
    ],
)
def test_sums_must_be_nearer_than_terms_in_every_layer(tmp_path, after, before, paper, own):
    single = layers([0.5, 0.5, 0.0])
    arrays = {"taylor_error_terms": single, "taylor_error_sum": layers(after, before)}
    plant_network(tmp_path, "relu", **arrays)
    assert verdict(tmp_path, lemmas.robust_sums, "statements") == paper
    assert our_verdict(tmp_path, lemmas.robust_sums, "statements") == own


THEOREM_4 = {
    "ansatz_cosine": [0.95, 0.97, 1.0],
    "ansatz_ratio": [1.5, 0.8, 5.0],
    "surrogate": [10.0, 20.0, 30.0],
    "surrogate_floor": [6.0, 7.0, 8.0],
    "surrogate_floor_sharper": [7.0, 8.0, 9.0],
    "response_norm2": [3.0, 2.0, 1.0],
    "crossed_most": [30.0, 20.0, 0.0],
}


def plant_theorem_4(root, changes, network="relu", loss=1e-4):
    arrays = {name: layers(values) for name, values in (THEOREM_4 | changes).items()}
    if network != "relu":
        arrays = {k: v for k, v in arrays.items() if "sharper" not in k and "crossed" not in k}
    arrays["loss"] = np.array([[1.0, 1e-4]] * 3)
    arrays["loss"][1, -1] = loss
    plant_network(root, network, **arrays)


@pytest.mark.parametrize(
    ("changes", "unmet"),
    [
        ({}, set()),
        ({"surrogate_floor": [6.0, 25.0, 28.0]}, {"S at least the bound"}),
        ({"surrogate_floor_sharper": [1.0, 21.0, 9.0]}, {"S at least the sharper bound"}),
        ({"surrogate_floor": [7.0, 6.0, 8.0]}, {"the bound rises by layer"}),
        ({"surrogate_floor": [1.0, 2.0, 3.0]}, {"more than 1/2 of the bound somewhere"}),
        ({"surrogate": [10.0, 40.0, 30.0]}, {"S rises by layer"}),
    ],
)
def test_theorem_4s_conclusions_where_its_premises_hold(tmp_path, changes, unmet):
    plant_theorem_4(tmp_path, changes)
    found = outcomes(tmp_path, statements_rules.theorem_4, "statements")
    assert {asked for asked, outcome in found.items() if outcome != "met"} == unmet


@pytest.mark.parametrize(
    ("changes", "loss", "failed"),
    [
        ({"ansatz_cosine": [0.5, 0.97, 1.0]}, 1e-4, "the Ansatz, cosine above 0.9"),
        ({"ansatz_ratio": [0.3, 1.0, 1.0]}, 1e-4, "C_l‖y‖⁴ / S within a factor of 2 of one"),
        ({"crossed_most": [20.0, 30.0, 0.0]}, 1e-4, "M falls by layer"),
        ({}, 0.5, "the network interpolates"),  # one seed does not
    ],
)
def test_theorem_4_does_not_apply_where_a_premise_fails(tmp_path, changes, loss, failed):
    plant_theorem_4(tmp_path, changes, loss=loss)
    claim = statements_rules.theorem_4
    found = outcomes(tmp_path, claim, "statements")
    assert {asked for asked, outcome in found.items() if outcome == "not met"} == {failed}
    words = "true: not applicable, tight: not applicable, useful: not applicable"
    assert verdict(tmp_path, claim, "statements") == words


def test_theorem_4_leaves_out_the_layer_whose_norm_is_the_constant(tmp_path):
    """Of squared ReLU: there the bound is at least S by Cauchy–Schwarz."""
    changes = {"surrogate_floor": [6.0, 7.0, 30.5]}
    claim = statements_rules.theorem_4
    plant_theorem_4(tmp_path, {"surrogate_floor_sharper": [1.0, 2.0, 31.0]})
    assert outcomes(tmp_path, claim, "statements")["S at least the sharper bound"] == "met"
    plant_theorem_4(tmp_path, changes, "squared_relu")
    assert outcomes(tmp_path, claim, "statements")["S at least the bound"] == "met"
    plant_theorem_4(tmp_path, changes | {"response_norm2": [1.0, 2.0, 3.0]}, "squared_relu")
    assert outcomes(tmp_path, claim, "statements")["S at least the bound"] == "not met"


CASES = ["balanced", "labels", "random_weight", "noise"]


def plant_proposition_2(root, network, cka=(0.3, 0.9, 0.99), nc1=(2.0, 0.5, 0.05), hand=None):
    hand = {"hand_cka": [1, 1, 0.7, 0.8], "hand_gram_error": [1e-14, 1e-14, 0.7, 0.6]} | (
        hand or {}
    )
    curves = {"nc1": nc1, "nc2_norm": [1, 0.5, 0.01], "nc2_angle": [1, 0.5, 0.02]}
    arrays = {k: np.array(v) * WIGGLE[..., 0] for k, v in curves.items()}
    arrays["cka"] = (np.array(cka) * WIGGLE[..., 0])[..., None] * [0.1, 1.0]  # the last layer
    arrays |= {k: np.array([v] * 3) + 1e-13 * np.arange(3)[:, None] for k, v in hand.items()}
    plant_network(root, network, case=CASES, **arrays)


@pytest.mark.parametrize(
    ("cka", "nc1", "words"),
    [
        ([0.3, 0.9, 0.99], [2.0, 0.5, 0.05], "true, useful"),
        ([0.3, 0.5, 0.7], [2.0, 0.5, 0.05], "true in part, useful"),  # collapsed, not aligned
        ([0.9, 0.5, 0.3], [2.0, 0.5, 0.40], "true, not useful"),
        ([0.3, 0.5, 0.7], [2.0, 0.5, 0.40], "true, useful"),  # not collapsed: not asked
    ],
)
def test_proposition_2_is_about_networks_that_have_collapsed(tmp_path, cka, nc1, words):
    plant_proposition_2(tmp_path, "gelu_decay", cka, nc1)
    assert verdict(tmp_path, propositions.proposition_2, "statements") == words


@pytest.mark.parametrize(
    ("hand", "words", "own"),
    [
        ({"hand_cka": [0.99, 1, 0.7, 0.8]}, "true in part, useful", "holds; control met"),
        ({"hand_gram_error": [1e-14, 0.1, 1, 1]}, "true in part, useful", "holds; control met"),
        ({"hand_cka": [1, 1, 1, 0.8]}, "true, useful", "holds; control met in part"),
    ],
)
def test_proposition_2_by_hand(tmp_path, hand, words, own):
    plant_proposition_2(tmp_path, "gelu_decay", hand=hand)
    assert verdict(tmp_path, propositions.proposition_2, "statements") == words
    premises = own.replace("control met in part", "control met in part")
    assert our_verdict(tmp_path, propositions.proposition_2, "statements") == premises


def test_proposition_2_under_cross_entropy_is_ours(tmp_path):
    plant_proposition_2(tmp_path, "gelu", cka=[0.9, 0.5, 0.3])
    assert verdict(tmp_path, propositions.proposition_2, "statements") == "not comparable"
    assert our_verdict(tmp_path, propositions.proposition_2, "statements") == "does not hold"


@pytest.mark.parametrize(
    ("total", "own", "tanh", "words", "control"),
    [
        (-1e-15, 0.05, 0.5, "true, useful", "control met"),
        (-1e-6, 0.05, 0.5, "not true, useful", "control met"),
        (-1e-15, 0.5, 0.5, "true, not useful", "control met"),
        (-1e-15, 0.05, 1e-15, "true, useful", "control met in part"),  # zero for any f
        (-1e-15, 1e-15, 1e-15, "true, useful", "control not met"),
    ],
)
def test_proposition_4_is_exact_and_not_for_any_function(
    tmp_path, total, own, tanh, words, control
):
    sums = np.zeros(SHAPE)
    sums[1, 1, 0] = total
    arrays = {"expansion_sum": sums, "expansion_sum_not_centred": np.full(SHAPE, own)}
    plant_network(tmp_path, "relu", **arrays)
    arrays["expansion_sum"] = np.full(SHAPE, tanh)
    plant_network(tmp_path, "tanh", **arrays)
    assert verdict(tmp_path, propositions.proposition_4, "statements") == words
    assert our_verdict(tmp_path, propositions.proposition_4, "statements") == f"{control}"


@pytest.mark.parametrize(
    ("ratio", "odd", "words"),
    [
        (0.6, None, "true, tight, useful"),
        (0.6, 0.602, "true, tight, useful"),
        (0.6, 2.0, "not true, tight, useful"),
        (0.4, None, "true, not tight, useful"),
        (0.1, None, "true, not tight, not useful"),
    ],
)
def test_lemma_1_says_something_of_the_targets_or_not(tmp_path, ratio, odd, words):
    values = layers([ratio] * 3)
    if odd:
        values[1, 0, 1] = odd
    plant_network(tmp_path, "gelu", lemma1_ratio=values, lemma1_chance=layers([0.2] * 3))
    found = verdict(tmp_path, lemmas.lemma_1, "statements")
    assert found == words


@pytest.mark.parametrize(
    ("left", "printed", "refined", "words", "own"),
    [
        (0.5, 1.2, 0.8, "true, not tight, not useful", "holds"),
        (0.7, 1.2, 0.8, "true, tight, not useful", "holds"),
        (0.5, 0.9, 0.8, "true, tight, useful", "holds"),
        (1.5, 1.2, 1.6, "not true, tight, not useful", "holds in part"),
        (0.9, 1.2, 0.8, "true, tight, not useful", "holds in part"),
    ],
)
def test_lemma_2_must_be_below_what_is_known_without(tmp_path, left, printed, refined, words, own):
    names = ("lemma2_left", "lemma2_bound", "lemma2_refined")
    arrays = {name: np.full((3, 2, 4, 3), 9.0) for name in names}
    arrays["lemma2_left"][:] = 0.01
    for name, value in zip(names, (left, printed, refined), strict=True):
        arrays[name][:, 1, 2, 1] = around(value)
    plant_network(tmp_path, "relu", **arrays)
    assert verdict(tmp_path, lemmas.lemma_2, "statements") == words
    assert our_verdict(tmp_path, lemmas.lemma_2, "statements") == own


@pytest.mark.parametrize(
    ("held", "most", "bound", "words", "own"),
    [
        (1.0, 0.3, [9.0, 0.5, 0.0], "true, not tight, useful", "holds"),
        (0.99, 0.3, [9.0, 0.5, 0.0], "not true, not tight, useful", "holds"),
        (1.0, 0.8, [9.0, 0.5, 0.0], "true, tight, useful", "does not hold"),
        (1.0, 0.3, [9.0, 5.0, 0.0], "true, not tight, not useful", "holds"),  # the last is zero
    ],
)
def test_lemma_4_is_a_bound_of_every_pair(tmp_path, held, most, bound, words, own):
    arrays = {"lemma4_held": everywhere(1, SHAPE, held), "lemma4_most": layers([most] * 3)}
    arrays |= {"lemma4_bound": layers(bound), "lemma4_error": layers([0.1] * 3)}
    plant_network(tmp_path, "relu", crossed=layers([30.0, 20.0, 0.0]), **arrays)
    assert verdict(tmp_path, lemmas.lemma_4, "statements") == words
    assert our_verdict(tmp_path, lemmas.lemma_4, "statements") == own


@pytest.mark.parametrize(
    ("after", "before", "odd", "words"),
    [
        ([0.2, 0.9], [0.2, 0.3], None, "true, tight, useful"),
        ([0.2, 0.4], [0.2, 0.3], None, "true, not tight, useful"),
        ([0.9, 0.2], [0.2, 0.3], None, "true, tight, not useful"),
        ([0.2, 0.9], [0.2, 0.3], 1.01, "not true, tight, useful"),
    ],
)
def test_lemma_5_is_one_at_most(tmp_path, after, before, odd, words):
    cka = layers(after, before)
    if odd:
        cka[1, 0, 0] = odd
    ones = np.ones(cka.shape)
    plant_network(tmp_path, "tanh", cka=cka, lemma1_ratio=ones)
    assert verdict(tmp_path, lemmas.lemma_5, "statements") == words


@pytest.mark.parametrize(
    ("product", "descent", "late", "nearer", "paper", "own"),
    [
        ([0.0, 0.9], 0.5, -0.5, [0.1, 0.2], "holds", "holds; control met"),
        ([0.4, 0.9], 0.5, -0.5, [0.1, 0.2], "holds in part", "holds; control met"),
        ([0.0, -0.3], 0.5, -0.5, [0.1, 0.2], "holds in part", "holds; control met"),
        ([0.0, 0.9], -0.5, 0.5, [0.1, 0.2], "holds in part", "does not hold; control met"),
        # the layer where it is negative is one whose classes are not nearer
        ([0.0, 0.9], [-0.5, 0.5], 0.5, [-0.1, 0.2], "holds", "does not hold; control met"),
        ([0.0, 0.9], -0.5, 0.5, [-0.1, -0.2], "holds", "does not hold; control not met"),
    ],
)
def test_signs_are_asked_where_their_conditions_hold(
    tmp_path, product, descent, late, nearer, paper, own
):
    """Two epochs: the loss has tapered by the second."""
    along = np.array([np.full(2, late) if e else np.ones(2) * descent for e in range(2)])
    arrays = {
        "output_product": np.array(product) + 1e-3 * np.arange(3)[:, None],
        "descent_cosine": along * WIGGLE,
        "nearer": np.array([nearer] * 2) * WIGGLE,
        "loss": np.array([[1.0, 1e-4]] * 3),
    }
    for network in ("relu", "relu_binary"):
        plant_network(tmp_path, network, **arrays)
    assert verdict(tmp_path, lemmas.signs, "statements") == paper
    assert our_verdict(tmp_path, lemmas.signs, "statements") == own


@pytest.mark.parametrize(
    ("cosine", "ratio", "expected"),
    [(0.999, 1.001, "holds"), (0.9, 1.0, "does not hold"), (1.0, 0.9, "does not hold")],
)
def test_whitenings_forms_must_agree_at_the_smallest_rate(tmp_path, cosine, ratio, expected):
    arrays = {"whitening_cosine": [0.1, cosine, 0.2], "whitening_ratio": [9.0, ratio, 8.0]}
    arrays = {
        name: np.broadcast_to(np.array(v)[:, None], (3, 2, 3, 3)) for name, v in arrays.items()
    }
    arrays |= dict.fromkeys(("discarded_gradient", "discarded_momentum"), layers([0.2] * 3))
    arrays["loss"] = np.ones((3, 2))
    plant_network(tmp_path, "cnn", rate=RATES, **arrays)
    assert verdict(tmp_path, statements_rules.whitening_forms, "statements") == expected
    (row,) = judge(tmp_path, statements_rules.whitening_forms, "statements")
    assert "at 10 times the rate" in row.number
