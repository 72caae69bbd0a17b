"""Notes below figures, and what curves and pictures are drawn of."""

from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

from report import plot

mpl.use("agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plot.plt.close("all")


def run(label="cifar10_jpeg", warning="", **config):
    meta = {"experiment": "s"}
    return SimpleNamespace(label=label, name="a run", warning=warning, config=config, meta=meta)


def preset(**settings):
    names = ("cifar10", "cifar100")
    return SimpleNamespace(hyperparameters=lambda: settings, datasets=names, rates=(0.1, 0.2))


@pytest.fixture
def script(monkeypatch):
    """One whose configuration is `preset`."""
    monkeypatch.setattr(plot, "experiment", lambda name: SimpleNamespace(Config=preset))


def test_differences_name_each_set_of_changed_settings_once():
    runs = [run(epochs=5, width=8), run(epochs=5, width=8), run(epochs=20, width=4)]
    lines = plot.differences(runs, preset(epochs=20, width=8), ignore=("depth",))
    start = "Changed from the defaults (the paper's, where it has them): "
    assert lines == [start + "epochs 5 (20)", start + "width 4 (8)"]
    assert plot.differences(runs, preset(epochs=20, width=8), ignore=("epochs", "width")) == []


def test_differences_name_each_replica_that_diverged():
    runs = [run(warning="; seed 3 diverged in epoch 5"), run()]
    assert plot.differences(runs, preset()) == ["a run; seed 3 diverged in epoch 5"]


def test_a_band_is_of_the_seeds_that_have_not_diverged():
    values = np.array(
        [[1.0, 2.0, 4.0, np.nan], [3.0, np.nan, np.nan, np.nan], [2.0, 4.0, 6.0, np.nan]]
    )
    mean, deviation = plot.over_seeds(values)
    np.testing.assert_allclose(mean, [2, 3, 5, np.nan])
    np.testing.assert_allclose(deviation, [1, 2**0.5, 2**0.5, 0])
    _, ax = plot.plt.subplots()
    plot.band(ax, np.arange(4), values, "label", "C0")  # without a warning
    np.testing.assert_allclose(ax.lines[0].get_ydata(), mean)
    whole = values[:, :1]
    assert plot.over_seeds(whole)[0].tobytes() == whole.mean(0).tobytes()


def test_notes_name_what_was_not_run_and_the_command_that_adds_it(script):
    start = "To add: python src/experiment/s.py"
    note = plot.notes([run(rate=0.1)], "paper", rate="rates")
    assert f"rate 0.2. {start} --rates 0.2" in note
    assert f"cifar100. {start} --datasets cifar100" in note
    assert "cifar10_jpeg: every CIFAR-10 image" in note


def test_a_command_that_is_advised_is_at_the_scale_of_the_results(script):
    note = plot.notes([run(rate=0.1)], "quick", {"optimizer": "adam"}, after="t", rate="rates")
    first, second = [line for line in note.splitlines() if "To add" in line]
    train = "To add: t.py --scale quick, then python src/experiment/s.py"
    assert first == f"Not run here: rate 0.2. {train} --scale quick --rates 0.2"
    assert second.endswith(f"{train} --optimizer adam --scale quick --datasets cifar100")


def test_no_figure_advises_a_command_of_its_own():
    folder = Path(plot.__file__).parent
    advised = [p.name for p in folder.glob("**/*.py") if "python src/" in p.read_text("utf-8")]
    assert advised == ["lookup.py"]


def test_a_title_is_not_wider_than_its_figure_and_lines_stand_once():
    for width, lines in ((3, 3), (9, 1)):
        figure, _ = plot.plt.subplots(figsize=(width, 3))
        plot.finish(figure, "a title of nine words, " * 5, "one\ntwo", "", "one")
        figure.draw_without_rendering()
        (title,) = (text for text in figure.texts if text.get_text().startswith("a title"))
        box = title.get_window_extent()
        assert (box.x0 >= 0, box.x1 <= figure.bbox.x1) == (True, True)
        assert box.height > (lines - 0.5) * title.get_fontsize()
        assert figure.get_supxlabel() == "one\ntwo"


def test_a_band_is_the_mean_and_two_standard_deviations():
    _, ax = plot.plt.subplots()
    values = np.array([[1.0, 10.0], [3.0, 1000.0]])
    plot.band(ax, np.arange(2), values, "a", "C0")
    plot.band(ax, np.arange(2), values, "b", "C1", log=True)
    linear, log = (line.get_ydata() for line in ax.lines)
    np.testing.assert_allclose(linear, [2, 505])
    np.testing.assert_allclose(log, [3**0.5, 100])
    low, high = ax.collections[0].get_paths()[0].vertices[:, 1][[1, -2]]
    assert {round(low, 9), round(high, 9)} == {round(2 - 8**0.5, 9), round(2 + 8**0.5, 9)}


def test_a_figure_is_saved_as_the_same_bytes_twice(tmp_path):
    for name in ("a", "b"):
        figure, _ = plot.grid(1, 1)
        plot.save(plot.finish(figure, "a title", "a note below it"), tmp_path / name)
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_accuracies_are_dashed_on_an_axis_of_their_own_in_percent():
    _, ax = plot.plt.subplots()
    accuracy = np.array([[0.1, 0.9], [0.3, 1.0]])  # (seed, epoch)
    right = plot.accuracy_axis(ax, {"epoch": np.arange(2), "a": accuracy}, {"a": ("train", "C1")})
    assert not ax.lines
    (line,) = right.lines
    np.testing.assert_allclose(line.get_ydata(), [20, 95])
    assert (line.get_linestyle(), line.get_label()) == ("--", "train")
    assert right.collections[0].get_paths()[0].vertices[:, 1].max() == 100  # not 95 + 14


def test_an_end_mark_stands_at_its_value_and_once_in_the_legend():
    figure, ax = plot.plt.subplots()
    for value in (3, 4):
        plot.end_mark(ax, 20, value, "C0", "published")
    drawn = [line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata())]
    assert drawn == [[[20, 3]], [[20, 4]]]
    plot.shared_legend(figure, np.array([ax]), "outside right center")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["published"]


def test_results_are_in_the_papers_order_of_data_sets_and_others_last(monkeypatch):
    runs = [run(label) for label in ("digits", "cifar10_jpeg", "mnist", "cifar100")]
    names = SimpleNamespace(datasets=("mnist", "svhn", "cifar10", "cifar100"))
    monkeypatch.setattr(plot, "experiment", lambda name: SimpleNamespace(Config=lambda: names))
    ordered = plot.in_order(runs)
    assert [r.label for r in ordered] == ["mnist", "cifar10_jpeg", "cifar100", "digits"]


def test_an_animation_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    figure, ax = plot.plt.subplots(figsize=(1, 1))
    (line,) = ax.plot([0, 1])
    animation = plot.FuncAnimation(figure, lambda k: line.set_ydata([0, k]), range(3))
    path = tmp_path / "a.gif"
    path.write_bytes(b"before")

    def killed(*_):
        assert path.read_bytes() == b"before"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(plot.files.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            plot.save_animation(animation, path, 2, dpi=30)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"before"
    plot.save_animation(animation, path, 2, dpi=30)
    assert path.read_bytes()[:4] == b"GIF8"
