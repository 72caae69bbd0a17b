"""The paper's claims against the committed results: the rule, the number, the verdict.

    python src/claims.py            # write results/CLAIMS.md and the tables of README.md
    python src/claims.py --check    # fail where they differ from the results

Each rule is written down here before its measurement is made; none is tuned to a result.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import evidence
from evidence import CORRELATION, RANK_CORRELATION, TOLERANCE, Finding
from tables import differences_table, figures_table

ROOT = Path(__file__).resolve().parents[1]
Verdict = Literal["holds", "holds in part", "does not hold", "not measured"]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the rule it is judged by, and how it is measured."""

    number: int
    figures: tuple[str, ...]
    text: str
    rule: str
    measure: Callable[[Path, str, str], Iterable[Finding]] | None = None


def verdict(findings: Sequence[Finding]) -> Verdict:
    """holds where every finding meets the rule, in part where some do."""
    met = [finding.met for finding in findings]
    if not met:
        return "not measured"
    return "holds" if all(met) else "holds in part" if any(met) else "does not hold"


CLAIMS = (
    Claim(
        1,
        ("1",),
        "the virtual update straightens the Swiss roll along the target",
        "linear R² of the virtual points against the target is at least 0.9 at epoch 50 and above that of the points "
        "themselves, for most seeds",
        evidence.swiss_roll,
    ),
    Claim(
        2,
        ("2", "6"),
        "training with only the Gram-changing part of each update matches or beats plain training",
        f"at rate 0.01 the mean paired difference of final test accuracy, whitened − plain, is above −{TOLERANCE} "
        "percentage points, on every data set and for either projection",
        evidence.whitening,
    ),
    Claim(
        3,
        ("4", "9"),
        "Target Linearity and the surrogate rise during training, and deeper layers are more target-linear",
        "on the training set, for every seed: TL and surrogate of every hidden layer are higher after the last epoch "
        "than before training, and then TL rises from each layer to the next",
        evidence.linearity,
    ),
    Claim(
        4,
        ("5", "10"),
        "VAEs: the lower β, the higher Target Linearity, and the closer to linear the interpolation",
        "at the best epochs, means over seeds, the rank correlation over β is at most "
        f"−{RANK_CORRELATION}: of β and TL (Figure 10), and of TL and the interpolation's error (Figure 5)",
        evidence.autoencoders,
    ),
    Claim(
        5,
        ("8",),
        "wide (lazy) networks fit y_ols and leave it where it was; narrow (rich) ones improve it",
        "means over draws, last epoch against the first: for the widest network ‖ŷ − y_ols‖² falls below a tenth, and "
        "y_ols moves by less than a tenth of the first loss; for the narrowest ‖y − y_ols‖² falls by a fifth or more",
        evidence.lazy_and_rich,
    ),
    Claim(
        6,
        ("11",),
        "fine-tuning BERT makes Target Linearity rise with depth",
        "on training rows, means over seeds, on every task: after the last epoch the rank correlation of layer and TL "
        f"is at least {RANK_CORRELATION}, and TL rises from the first layer to the last, by more than in the "
        "pre-trained model",
        evidence.fine_tuning,
    ),
    Claim(
        7,
        ("12",),
        "random labels: Target Linearity and its order by depth fall as more labels are random",
        "against the labels trained on, after the last epoch, means over seeds: TL of the last layer, and how much "
        "higher it is than the first layer's, both fall from each p to the next",
        evidence.random_labels,
    ),
    Claim(
        8,
        ("13",),
        "grokking: the gap of Target Linearity between the last two layers moves with the generalisation gap",
        "for every weight decay, the correlation over epochs of TL(last layer) − TL(last but one) on the training set "
        f"with training − test accuracy, mean over seeds, is at least {CORRELATION}",
        evidence.grokking_gaps,
    ),
    Claim(
        9,
        ("gram",),
        "the Feature Learning Equation is exact; the Gram's movement follows the Virtual Covariance's",
        "in float64 the equation's residual is below 10⁻¹⁰; at the end of training of one length the relative "
        "difference of the two changes falls with the rate, with slope 1 ± 0.2 in every layer; their cosine at the "
        "smallest rate is 0.99 or more",
        evidence.gram_movement,
    ),
    Claim(
        10,
        ("collapse",),
        "target linearity subsumes Neural Collapse",
        "on the training set, for every seed, epoch and layer, TL with an intercept is at least what NC1 implies, "
        "1 / (1 + κ K NC1); and in the last layer, mean over seeds, the rank correlation over epochs of TL and NC1 is "
        f"at most −{RANK_CORRELATION}",
        evidence.neural_collapse_subsumed,
    ),
)


def measured(claim: Claim, root: Path, scale: str, figures: Sequence[str] | None = None) -> dict[str, list[Finding]]:
    """Figure -> findings of a claim, of all its figures or those named."""
    chosen = [figure for figure in claim.figures if figures is None or figure in figures]
    return {f: list(claim.measure(root, scale, f)) if claim.measure else [] for f in chosen}


def claims_table(root: Path, scale: str) -> str:
    """Markdown: claim, verdict, and a line for each measurement."""
    lines = []
    for claim in CLAIMS:
        by_figure = measured(claim, root, scale)
        findings = [finding for found in by_figure.values() for finding in found]
        name = "figures" if len(claim.figures) > 1 else "figure" if claim.figures[0].isdigit() else "experiment"
        lines += [f"**Claim {claim.number}** ({name} {', '.join(claim.figures)}): {claim.text}.", ""]
        lines += [f"Rule: {claim.rule}. Verdict: **{verdict(findings)}**.", ""]
        if findings:
            lines += ["| figure | data | measured | rule met |", "| --- | --- | --- | --- |"]
            for figure, found in by_figure.items():
                lines += [f"| {figure} | {f.where} | {f.number} | {'yes' if f.met else 'no'} |" for f in found]
            lines.append("")
    return "\n".join(lines).strip() + "\n"


def replace_between(text: str, marker: str, content: str) -> str:
    """`text` with what stands between <!-- marker --> and <!-- /marker --> replaced."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no <!-- {marker} --> … <!-- /{marker} --> in the text")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def documents(root: Path) -> dict[Path, str]:
    """Path -> content of every document that is made from the results."""
    table = claims_table(root, "paper")
    heading = "# The paper's claims, measured\n\nWritten by src/claims.py from the results of this folder.\n\n"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = replace_between(readme, "claims", table)
    readme = replace_between(readme, "figures", figures_table(root, "paper"))
    readme = replace_between(readme, "differences", differences_table(root, "paper"))
    return {root / "CLAIMS.md": heading + table, ROOT / "README.md": readme}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a document is out of date")
    check = parser.parse_args().check
    stale = False
    for path, text in documents(ROOT / "results").items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale = True
            print(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}")
            if not check:
                path.write_text(text, encoding="utf-8")
    sys.exit(stale and check)


if __name__ == "__main__":
    main()
