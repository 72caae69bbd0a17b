"""The first page of CLAIMS.md and the README's summary: figures, claims, what that amounts to."""

from collections import Counter
from collections.abc import Iterator, Sequence

from report import rules
from report.quoted import Row
from report.verdicts import ASPECTS, NONE, Finding, Judged, decided_by, flat, where_measured

_JPEG = "CIFAR-10 from a JPEG copy"
# figure of the paper -> whether data and model are the paper's
SETTINGS = {
    "1": "yes",
    "2": f"MNIST: yes; {_JPEG}; SVHN and CIFAR-100: not run",
    "3": "a scheme: drawn from Figure 8's runs",
    "4": f"{_JPEG}; CIFAR-100: not run",
    "5": "yes (MNIST)",
    "6": f"{_JPEG}; 3×3 kernels, as the code has them; SVHN and CIFAR-100: not run",
    "7": f"{_JPEG}; batch size and epochs are not stated",
    "8": "yes; other draws",
    "9": f"{_JPEG}; CIFAR-100: not run",
    "10": f"MNIST: yes; {_JPEG}",
    "11": "no: all-MiniLM-L6-v2 for BERT-base; other NLI, POS and NER data",
    "12": _JPEG,
    "13": "yes",
    "14": "yes",
}
# what each group of verdicts amounts to; {} are the claims whose verdict is in it
SENTENCES = {
    "stands": "What stands ({}): the chain rule's identities and Theorem 1 to first order; a Swiss "
    "roll that straightens; Target Linearity that rises in training and with depth under SGD, "
    "until a network groks, and with lower β in autoencoders, and that goes with generalisation.",
    "little": "What is true but says little ({}): Theorem 2, whose printed bound never passes −1; "
    "Lemma 3's first-order terms; Lemma 4's bound; Propositions 3 and 4.",
    "fails": "What does not hold, wholly or in part ({}): that the part of second order is small; "
    "that wide networks' features freeze, and hold them back; that the contours of WᵀW adapt; "
    "exponential growth of the surrogate; the same pattern under Adam; that the gap of grokking "
    "networks widens again; the sign of Theorem 3 in networks of squared ReLU.",
    "open": "Not comparable or not applicable ({}): BERT, whose weights could not be had; Theorem "
    "4, whose premises fail on every network tried.",
    "ours": "Findings of ours ({}).",
}
# the claims that these sentences speak of
NAMED = {
    "stands": (
        rules.weights.gram_movement,
        rules.weights.swiss_roll,
        rules.training.linearity,
        rules.models.autoencoders,
        rules.generalisation.generalisation,
        rules.grokking.grokking_rise,
    ),
    "little": (
        rules.statements.theorem_2,
        rules.lemmas.lemma_3,
        rules.lemmas.lemma_4,
        rules.models.proposition_3,
        rules.propositions.proposition_4,
    ),
    "fails": (
        rules.figure7.second_order,
        rules.width.frozen_features,
        rules.width.held_back,
        rules.weights.contours,
        rules.training.growth,
        rules.training.linearity_adam,
        rules.grokking.grokking_gaps,
        rules.statements.theorem_3,
    ),
    "open": (
        rules.encoders.fine_tuning,
        rules.encoders.pre_training,
        rules.statements.theorem_4,
    ),
}


def group(said: str) -> str:
    """The key of SENTENCES that a verdict of the paper's belongs to."""
    first, *others = said.split(", ")  # of a theorem three words
    if first == "true":
        return "stands" if set(others) <= set(ASPECTS) else "little"
    if first in ("does not hold", "holds in part", "not true", "true in part"):
        return "fails"
    return {"holds": "stands", "holds where measured": "stands", NONE: "ours"}.get(said, "open")


def figure_rows(rows: Sequence[Row], judged: Judged) -> Iterator[tuple[str, ...]]:
    """Figure, whether data and model are the paper's, quoted, ours, and what that amounts to."""
    for figure, setting in SETTINGS.items():
        source = "8" if figure == "3" else figure
        numbers = [row for row in rows if row.figure == figure]
        claims = {claim: rows[source] for claim, rows in judged.items() if source in rows}
        findings = [f for rows in claims.values() for f in rows if f.part == "paper"]
        if numbers:
            quoted, ours = numbers[0].quoted, numbers[0].ours
            quoted = f"{numbers[0].what}: {quoted}"
        else:
            quoted, ours = "no number", decided_by(findings)
        if setting.startswith("no"):
            result = "not comparable" if numbers else "not run"
        else:
            result = _of_numbers(numbers) if numbers else _of_findings(findings)
        yield figure, setting, quoted, ours, result


def _of_numbers(numbers: Sequence[Row]) -> str:
    same = sum(row.same for row in numbers)
    if same in (0, len(numbers)):
        return "reproduced" if same else "differs"
    return f"{same} of {len(numbers)} numbers reproduced"


def _of_findings(findings: Sequence[Finding]) -> str:
    words = {
        "holds": "reproduced",
        "holds in part": "reproduced in part",
        "holds where measured": "reproduced where measured",
        "does not hold": "differs",
        "": "not run",
    }
    said = where_measured(findings)
    return words.get(said, said)


def front_page(rows: Sequence[Row], judged: Judged) -> str:
    """Markdown; rows: what the paper quotes."""
    lines = [
        "| figure | same data and model? | quoted | ours | |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {' | '.join(row)} |" for row in figure_rows(rows, judged)]
    return "\n\n".join(["\n".join(lines), claims_table(judged), *sentences(judged), ""])


def claims_table(judged: Judged) -> str:
    """Markdown: a line a claim, with both verdicts and the finding that decides the paper's."""
    lines = ["| claim | the paper's | ours | decided by | figure |", "|---|---|---|---|---|"]
    for claim, by_figure in judged.items():
        findings = flat(by_figure)
        verdicts = claim.verdicts(findings)
        cells = (f"{rules.number(claim)}: {claim.text}", *verdicts, decided_by(findings))
        lines.append(f"| {' | '.join((*cells, ', '.join(claim.figures)))} |")
    return "\n".join(lines) + "\n"


def titles_table(judged: Judged) -> str:
    """Markdown: a line a claim, its title and both verdicts."""
    lines = ["|claim|the paper's|ours|", "|---|---|---|"]
    for claim, by_figure in judged.items():
        verdicts = (said.replace(" by this data", "") for said in claim.verdicts(flat(by_figure)))
        cells = (f"{rules.number(claim)}: {claim.title}", *verdicts)
        lines.append(f"|{'|'.join(cells)}|")
    return "\n".join(lines) + "\n"


def summary(judged: Judged) -> str:
    """Markdown: how many of the paper's claims are in each group, and what that amounts to.

    Without the claims' numbers, which a table has further down.
    """
    papers = {c: rows for c, rows in judged.items() if c.verdicts(flat(rows))[0] != NONE}
    plain = (SENTENCES[key].replace(" ({})", "") for key, of in grouped(papers).items() if of)
    return " ".join([tally(judged), *plain]) + "\n"


def tally(judged: Judged) -> str:
    """How many claims hold, in part or not at all, and how many say little or stay open."""
    said = [claim.verdicts(flat(by_figure))[0] for claim, by_figure in judged.items()]
    groups = Counter(map(group, said))
    fails = [words.partition(", ")[0] for words in said if group(words) == "fails"]
    in_part = sum(first.endswith("in part") for first in fails)
    return (
        f"Of the paper's {len(said) - groups['ours']} claims {groups['stands']} hold, "
        f"{groups['little']} are true but say little, {in_part} hold in part, "
        f"{len(fails) - in_part} do not hold, {groups['open']} are not comparable or not "
        "applicable."
    )


def grouped(judged: Judged) -> dict[str, list[int]]:
    """Key of SENTENCES -> numbers of the claims whose verdict is in that group."""
    groups: dict[str, list[int]] = {key: [] for key in SENTENCES}
    for claim, by_figure in judged.items():
        papers, _ = claim.verdicts(flat(by_figure))
        groups[group(papers)].append(rules.number(claim))
    return groups


def sentences(judged: Judged) -> Iterator[str]:
    """What stands, what says little, what fails, with the claims' numbers."""
    for key, numbers in grouped(judged).items():
        if numbers:
            named = ", ".join(map(str, numbers))
            yield SENTENCES[key].format(f"claim{'s' * (len(numbers) > 1)} {named}")
