"""The paper's claims against the committed results: the rule, the number, the verdict.

    python src/claims.py            # write results/CLAIMS.md and the tables of README.md
    python src/claims.py --check    # fail where they differ from the results

Each rule is written down here before its measurement is made; none is tuned to a result.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import results
from experiment import target_linearity, whiten, whiten_cnn
from results import Result

ROOT = Path(__file__).resolve().parents[1]
Verdict = Literal["holds", "holds in part", "does not hold", "not measured"]
TOLERANCE = 0.5  # percentage points of accuracy within which two methods match


@dataclass(frozen=True)
class Finding:
    """One measurement of a claim: where, the number with its spread, and whether the rule is met."""

    where: str
    number: str
    met: bool


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the rule it is judged by, and how it is measured."""

    number: int
    figures: tuple[str, ...]
    text: str
    rule: str
    measure: Callable[[Path, str, str], Sequence[Finding]] | None = None


def verdict(findings: Sequence[Finding]) -> Verdict:
    """holds where every finding meets the rule, in part where some do."""
    met = [finding.met for finding in findings]
    if not met:
        return "not measured"
    return "holds" if all(met) else "holds in part" if any(met) else "does not hold"


def mean_spread(values: np.ndarray, digits: int = 2) -> str:
    """ "mean ± 2 standard deviations" over seeds."""
    spread = f" ± {2 * values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def whitening(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 2: final test accuracy of exact whitening minus plain training, paired by seed."""
    experiment, config = {"2": ("whiten", whiten.Config()), "6": ("whiten_cnn", whiten_cnn.Config())}[figure]
    runs = results.find(root, scale, experiment, config.hyperparameters(), learning_rate=0.01)
    by_method = {(r.label, r.config["method"]): r for r in runs}
    for label in sorted({r.label for r in runs}):
        plain = by_method.get((label, "plain"))
        for method, name in (("exact", "exact"), ("newton_schulz", "as published")):
            run = by_method.get((label, method))
            if plain is not None and run is not None and run.config["seeds"] == plain.config["seeds"]:
                gain = 100 * (run["test_accuracy"] - plain["test_accuracy"])[0, :, -1]
                base = mean_spread(100 * plain["test_accuracy"][0, :, -1])
                number = f"whitened ({name}) − plain {mean_spread(gain)} points of test accuracy (plain {base} %)"
                yield Finding(label, number, bool(gain.mean() >= -TOLERANCE))


def linearity(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    """Claim 3: TL and surrogate at the end against the start, and the order of the layers at the end."""
    optimizer = {"4": "sgd", "9": "adam"}[figure]
    config = target_linearity.Config(optimizer=optimizer)
    for run in results.find(root, scale, "target_linearity", config.hyperparameters(), optimizer=optimizer):
        yield _linearity(run)


def _linearity(run: Result) -> Finding:
    tl, surrogate = run["train_tl"], run["train_surrogate"]  # (seed, epoch, layer)
    rises = (tl[:, -1] > tl[:, 0]).all() and (surrogate[:, -1] > surrogate[:, 0]).all()
    ordered = np.diff(tl[:, -1], axis=-1) > 0  # (seed, layer - 1)
    number = (
        f"TL of the last layer {mean_spread(tl[:, 0, -1], 3)} → {mean_spread(tl[:, -1, -1], 3)}, of the first "
        f"{mean_spread(tl[:, 0, 0], 3)} → {mean_spread(tl[:, -1, 0], 3)}; TL and surrogate "
        f"{'rise' if rises else 'do not rise'} in every layer and seed; {ordered.sum()} of {ordered.size} "
        "neighbouring layers in order"
    )
    return Finding(run.label, number, bool(rises and ordered.all()))


CLAIMS = (
    Claim(
        1,
        ("1",),
        "the virtual update straightens the Swiss roll along the target",
        "linear R² of the virtual points against the target is at least 0.9 at epoch 50 and above that of the points "
        "themselves, for most seeds",
    ),
    Claim(
        2,
        ("2", "6"),
        "training with only the Gram-changing part of each update matches or beats plain training",
        f"at rate 0.01 the mean paired difference of final test accuracy, whitened − plain, is above −{TOLERANCE} "
        "percentage points, on every data set and for either projection",
        whitening,
    ),
    Claim(
        3,
        ("4", "9"),
        "Target Linearity and the surrogate rise during training, and deeper layers are more target-linear",
        "on the training set, for every seed: TL and surrogate of every hidden layer are higher after the last epoch "
        "than before training, and then TL rises from each layer to the next",
        linearity,
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
        lines += [f"**Claim {claim.number}** (figures {', '.join(claim.figures)}): {claim.text}.", ""]
        lines += [f"Rule: {claim.rule}. Verdict: **{verdict(findings)}**.", ""]
        if findings:
            lines += ["| figure | data | measured | rule met |", "| --- | --- | --- | --- |"]
            for figure, found in by_figure.items():
                lines += [f"| {figure} | {f.where} | {f.number} | {'yes' if f.met else 'no'} |" for f in found]
            lines.append("")
    return "\n".join(lines).strip() + "\n"


def runs_table(root: Path, scale: str) -> str:
    """Markdown: what was run on which data, and how long it took."""
    rows: dict[tuple[str, str], list[Result]] = {}
    for path in sorted((root / scale).glob("*/*.npz")):
        run = results.load(path)
        rows.setdefault((run.meta["experiment"], run.label), []).append(run)
    lines = ["| script | data | results | minutes | on |", "| --- | --- | --- | --- | --- |"]
    for (experiment, label), runs in rows.items():
        minutes = sum(run.meta["seconds"] for run in runs) / 60
        devices = ", ".join(sorted({run.meta["device"] for run in runs}))
        lines.append(f"| {experiment}.py | {label} | {len(runs)} | {minutes:.0f} | {devices} |")
    return "\n".join(lines) + "\n"


def differences_table(root: Path, scale: str) -> str:
    """Markdown: what the published code does, what this one does, and what that changes, measured."""
    rows = [row for measure in (_published_linearity, _published_whitening) for row in measure(root, scale)]
    lines = ["| the published code | here | measured effect |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _published_linearity(root: Path, scale: str) -> Iterator[tuple[str, str, str]]:
    for run in results.find(root, scale, "published_formulas", {}):
        exact, published = run["tl"], run["tl_published"]  # (epoch, layer)
        worst = np.unravel_index(np.abs(published - exact).argmax(), exact.shape)
        yield (
            "TL by a float32 inverse of HᵀH",
            "centred float64 sums, scaled columns, a rank with a stated cut-off",
            f"{run.label}, last layer before training: {published[0, -1]:.3f} where the truth is {exact[0, -1]:.3f} "
            f"(condition number {run['condition'][0, -1]:.0f}); at worst, epoch {worst[0]} layer {worst[1] + 1}: "
            f"{published[worst]:.3g} where it is {exact[worst]:.3f}",
        )
        error = np.abs(run["surrogate_published"] / run["surrogate"] - 1).max()
        seconds = run["surrogate_seconds"]
        yield (
            "surrogate through the N × N matrix ZZᵀ",
            "the identity tr(YᵀZZᵀY) = ‖ZᵀY‖²",
            f"{run.label}, {run.config['surrogate_samples']} samples: the same to {error:.0e}, in {seconds[0]:.3f} s "
            f"instead of {seconds[1]:.2f} s a layer, and without a matrix that grows as N²",
        )


def _published_whitening(root: Path, scale: str) -> Iterator[tuple[str, str, str]]:
    for run in results.find(root, scale, "whiten", {}, method="newton_schulz", learning_rate=0.01):
        exact = results.find(root, scale, "whiten", run.config, method="exact", learning_rate=0.01)
        exact = [e for e in exact if e.label == run.label]
        lost = (run["singular_values"][0, :, -1] < 1e-4).sum(-1)  # (seed,)
        ratio = run["gram_error"][0, :, 1] / run["gram_change"][0, :, 1]
        text = (
            f"{run.label}: at the end {mean_spread(lost, 0)} of {run['singular_values'].shape[-1]} singular values of "
            f"layer 2 are below 10⁻⁴; the last step of epoch 1 moves its Gram by {mean_spread(ratio)} times what the "
            "optimizer's step does"
        )
        if exact:
            kept = (exact[0]["singular_values"][0, :, -1] < 1e-4).sum(-1)
            text += (
                f" (exact: {mean_spread(kept, 0)} values, {exact[0]['gram_error'][0].max():.0e} of the Gram at most)"
            )
        yield ("ten Newton–Schulz steps for the polar factor", "exact; the published way is an option", text)


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
    readme = replace_between(readme, "runs", runs_table(root, "paper"))
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
