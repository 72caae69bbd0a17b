"""Claims about variational autoencoders."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from experiment import vae_ceiling, vae_target_linearity, vae_train
from lab.results import Result
from report.lookup import lookup
from report.plot import stand_in
from report.verdicts import (
    EQUIVALENCE_LEVEL,
    Finding,
    Part,
    above,
    all_above,
    below,
    claim,
    every,
    holds_everywhere,
    interval,
    means,
    within,
)

FALLS_WITH = -0.8  # rank correlation that counts as "the lower, the higher"
LOW, HIGH = 0.1, 1  # β up to which, and from which on, the text says how TL goes with the epoch
STEADY = 0.8  # rank correlation of epoch and TL that counts as a steady rise
STABLE = 0.02  # of TL, by which a stable one may fall
PAPERS_DATA = ("mnist", "cifar10")


def part_of(run: Result) -> Part:
    return "paper" if stand_in(run.label) in PAPERS_DATA else "ours"


def at_best(run: Result, name: str) -> np.ndarray:
    """An array's values at each model's best epoch: (seed, beta)."""
    return np.take_along_axis(run[name], run["best_epoch"][..., None], 2)[..., 0].T


def relative_nonlinearity(run: Result) -> np.ndarray:
    """The decoder's distance from linear over twice the variance of what it decodes: (seed, beta).

    Twice the variance is the mean squared distance of two decoded images, so a decoder that blurs
    all of them alike changes nothing. The variance a pixel is of the stored reconstructions: ten
    test images, the first seed's. Nan where they are all the same.
    """
    images = run["reconstructions"] / 255.0  # (beta, image, channel, row, column)
    variance = images.var(axis=1, ddof=1).mean((1, 2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return at_best(run, "decoder_nonlinearity") / (2 * variance)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of the rows of two arrays (seed, k), a value each seed."""
    pairs = zip(*np.broadcast_arrays(first, second), strict=True)
    return np.array([spearmanr(a, b).statistic for a, b in pairs])


def correlation_finding(
    run: Result, what: str, r: np.ndarray, values: np.ndarray, part: Part
) -> Finding:
    """Whether a rank correlation over β is below FALLS_WITH; values (seed, beta) are shown."""
    number, mean = interval(r), values.mean(0)
    ends = f"{mean[0]:.4f} → {mean[-1]:.4f} from β = {run['beta'][0]:g} to {run['beta'][-1]:g}"
    asked = f"{what}: rank correlation below {FALLS_WITH}"
    text = f"{number.text()}; {ends}"
    return Finding(run.label, asked, text, below(number, FALLS_WITH), number.seeds, part)


@claim(
    "VAEs: lower β, higher TL",
    "VAEs: the lower β, the higher Target Linearity, the sharper the pictures and the closer to "
    "linear the interpolation",
    source="section 5 and Appendix B.6, Figures 5 and 10",
    figures=("5", "10"),
    rule=f"MNIST and CIFAR-10, at the best epochs, the rank correlation over β is below "
    f"{FALLS_WITH}: of β and TL, of β and the sharpness of pictures (mean absolute difference of "
    "neighbouring pixels in the reconstructions of a test image a class, the first seed's), of TL "
    f"and the interpolation's error (Figure 5). Up to β = {LOW} TL rises steadily (rank "
    f"correlation with the epoch, from the first on, above {STEADY}) and test errors are lower "
    f"than at every other β; from β = {HIGH} on it is stable or rises slightly: from the first "
    f"epoch to the last it changes, a mean over these β, by more than −{STABLE} and by less than "
    f"up to β = {LOW}",
    ours="other data. Control: a large β blurs every decoded image, and blur alone is an error "
    "against the images' own mixture; the decoder's distance from the mixture of its own ends, "
    "over twice the variance of decoded images, which no blur changes, has the same correlation "
    "with TL. 32 latents leave TL of 10,000 images next to no chance level",
)
def autoencoders(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    for run in lookup(vae_target_linearity, root, scale):
        tl, part = at_best(run, "tl"), part_of(run)
        if figure == "5":
            error, relative = at_best(run, "interpolation_error"), relative_nonlinearity(run)
            r = rank_correlation(tl, error)
            yield correlation_finding(run, "TL and interpolation error", r, error, part)
            r, what = rank_correlation(tl, relative), "TL and the decoder's relative nonlinearity"
            yield correlation_finding(run, what, r, relative, "control")
            continue
        r = rank_correlation(run["beta"], tl)
        yield correlation_finding(run, "β and TL", r, tl, part)
        yield sharpness_finding(run, part)
        yield from level_findings(run, part)
        trained = {
            r.config["beta"]: r for r in lookup(vae_train, root, scale) if r.label == run.label
        }
        if trained.keys() >= set(run["beta"].tolist()):
            yield error_finding(run, trained, part)


def sharpness(images: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring pixels, (…, channel, row, column) -> (…)."""
    pixels = images / 255.0
    steps = (np.abs(np.diff(pixels, axis=axis)).mean((-3, -2, -1)) for axis in (-2, -1))
    return sum(steps)


def sharpness_finding(run: Result, part: Part) -> Finding:
    values = sharpness(run["reconstructions"]).T  # (image, beta)
    number = interval(rank_correlation(run["beta"], values))
    original = sharpness(run["originals"]).mean()
    text = f"{number.text()} over {len(values)} images of one seed; by β {means(values, '.3f')}, "
    text += f"originals {original:.3f}"
    asked = f"β and sharpness: rank correlation below {FALLS_WITH}"
    return Finding(run.label, asked, text, below(number, FALLS_WITH), part=part)


def level_findings(run: Result, part: Part) -> Iterator[Finding]:
    """How TL goes with the epoch, from the first on: one that learns as little as the others."""
    tl, epoch = run["tl"][..., 1:], run["epoch"][1:]  # (beta, seed, epoch)
    change = tl[..., -1] - tl[..., 0]  # (beta, seed)
    low, high = run["beta"] <= LOW, run["beta"] >= HIGH
    if low.any():
        r = np.stack([rank_correlation(epoch, rows) for rows in tl[low]], axis=1)  # (seed, low)
        outcome, deciding = all_above(r, STEADY)
        text = f"least {deciding.text()}; TL changes by {means(change[low].T, '.3f')}"
        asked = f"up to β = {LOW}, rank correlation of epoch and TL above {STEADY}"
        yield Finding(run.label, asked, text, outcome, deciding.seeds, part)
    if low.any() and high.any():
        mean, most = change[high].mean(0), change[low].mean(0)  # (seed,)
        stable, slight = interval(mean), interval(most - mean)
        outcome = every([above(stable, -STABLE), above(slight, 0)])
        text = f"{stable.text(3)}; by β {means(change[high].T, '.3f')}, up to β = {LOW} "
        text += f"{most.mean():.3f}"
        asked = f"from β = {HIGH} on TL changes by more than −{STABLE}, less than up to β = {LOW}"
        yield Finding(run.label, asked, text, outcome, stable.seeds, part)


def error_finding(run: Result, trained: dict[float, Result], part: Part) -> Finding:
    """Of reconstruction errors at the best epochs, binary cross-entropy in nats an image."""
    rows = []
    for beta in run["beta"]:
        result = trained[float(beta)]
        rows.append(result["test_bce"][np.arange(len(result["seed"])), result["best_epoch"]])
    error = np.stack(rows, axis=1)  # (seed, beta)
    low = run["beta"] <= LOW
    gain = interval(error[:, ~low].min(1) - error[:, low].max(1))
    asked = f"test errors up to β = {LOW} below those at every other"
    text = f"by {gain.text(1)} nats an image; by β {means(error, '.0f')}"
    return Finding(run.label, asked, text, above(gain, 0), gain.seeds, part)


TIGHT = 0.9  # of the right side
PROPORTIONAL = 0.1  # from one, by which a slope of logarithms may differ


@claim(
    "Proposition 3: TL bounds interpolation errors",
    "Proposition 3: a decoder's error on mixtures of latents is bounded by the least-squares map's "
    "mean error, which is √(1 − T₀) up to scale",
    source="Proposition 3",
    figures=("10",),
    rule="at the best epochs, for every β and seed, all pairs of 1,000 training images, and for "
    "their 32 principal components as latents. True: the least-squares map's error on mixtures is "
    "at most its mean error, at α = ½ and wherever others are measured; the mean error is at most "
    "√(1 − T₀) times the images' spread (Jensen), and proportional to it over β: the slope of "
    f"their logarithms is 1 ± {PROPORTIONAL}. Tight: the left side is above {TIGHT} of the right. "
    "Useful: the right side is below the error of a decoder that gives the mean image whatever the "
    "latents are",
    ours="the proposition is about the best decoder, for which the least-squares map stands, by "
    "the triangle inequality alone: the trained decoder's error on mixtures is below the bound too",
)
def proposition_3(root: Path, scale: str, figure: str) -> Iterator[Finding]:
    constants: dict[str, np.ndarray] = {}
    for run in lookup(vae_ceiling, root, scale):
        if "mixture_left" in run.arrays:
            constants[run.label] = run["mixture_constant"]
            yield from of_components(run)
    for run in lookup(vae_target_linearity, root, scale):
        if "mixture_left" not in run.arrays:
            yield Finding(run.label, "left at most right", part="true")
            continue
        yield from of_autoencoders(run, constants.get(run.label))


def by_share(run: Result, lefts: np.ndarray) -> str:
    return ", ".join(
        f"{ratio:.2f} at α = {a:g}" for a, ratio in zip(run["share"], lefts, strict=True)
    )


def of_components(run: Result) -> Iterator[Finding]:
    """Of principal components as latents, which are the same for every seed."""
    where = f"{run.label}, principal components"
    left, right = run["mixture_left"], run["mixture_right"]
    ratio, constant = left / right, run["mixture_constant"] / right
    beside = f"; left by right {by_share(run, ratio)}"
    yield holds_everywhere(where, "left at most right", left <= right, beside, "true")
    jensen = right / run["mixture_rms"]
    asked = "right at most √(1 − T₀) times the spread"
    yield holds_everywhere(where, asked, jensen <= 1, f"; {jensen:.3f} of it", "true")
    asked = f"left above {TIGHT} of right"
    yield holds_everywhere(where, asked, ratio > TIGHT, beside, "tight")
    beside = f"; the mean image's error by right {by_share(run, constant)}"
    asked = "right below the mean image's error"
    yield holds_everywhere(where, asked, constant > 1, beside, "useful")


def of_autoencoders(run: Result, constants: np.ndarray | None) -> Iterator[Finding]:
    """constants: the mean image's error at every α, the last of which is ½."""
    left, right, decoder = (run[f"mixture_{n}"].T for n in ("left", "right", "decoder"))
    beside = f"; by β {means(left)} and {means(right)}"
    yield holds_everywhere(run.label, "left at most right", left <= right, beside, "true")
    if "share_left" in run.arrays:
        lefts = run["share_left"]  # (beta, seed, share)
        ratio = lefts / run["mixture_right"][..., None]
        beside = f"; left by right {by_share(run, ratio.mean((0, 1)))}"
        yield holds_everywhere(
            run.label, "left at most right, at every α", ratio <= 1, beside, "true"
        )
    rms = np.sqrt(1 - at_best(run, "tl"))  # (seed, beta)
    fits = [np.polyfit(np.log(x), np.log(y), 1)[0] for x, y in zip(rms, right, strict=True)]
    slope = interval(np.array(fits), EQUIVALENCE_LEVEL)
    asked = f"right proportional to √(1 − T₀) over β, slope 1 ± {PROPORTIONAL}"
    outcome = within(slope, 1 - PROPORTIONAL, 1 + PROPORTIONAL)
    text = f"{slope.text(3)} (90 %); ratio by β {means(right / rms, '.3f')}"
    yield Finding(run.label, asked, text, outcome, slope.seeds, "true")
    outcome, deciding = all_above(left / right, TIGHT)
    asked = f"left above {TIGHT} of right"
    yield Finding(run.label, asked, f"least {deciding.text()}", outcome, deciding.seeds, "tight")
    asked = "right below the mean image's error"
    if constants is None:
        yield Finding(run.label, asked, part="useful")
    else:
        for i, beta in enumerate(run["beta"]):
            margin = interval(constants[-1] - right[:, i])
            text = f"by {margin.text(3)}; {right[:, i].mean():.3f} and {constants[-1]:.3f}"
            where = f"{run.label}, β = {beta:g}"
            yield Finding(where, asked, text, above(margin, 0), margin.seeds, "useful")
    outcome, deciding = all_above(right - decoder)
    text = f"margin {deciding.text(3)}; by β {means(decoder)}"
    yield Finding(
        run.label,
        "the trained decoder's error below the bound",
        text,
        outcome,
        deciding.seeds,
        "ours",
    )
