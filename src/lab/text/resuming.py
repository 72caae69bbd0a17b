"""Checkpoints of transformers' Trainer: which are whole, and where training goes on from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerState, TrainingArguments

from lab import checkpoints, files
from lab.errors import ResultError, first_line
from lab.text import marked

FOR_RESUMING = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")


class MarkWhole(TrainerCallback):
    """Marks each checkpoint as whole, and slims those before the newest two.

    The newest but one keeps what serves to resume, for when the newest is damaged.
    """

    def __init__(self, origin: Mapping[str, Any]) -> None:
        self.origin = origin
        self.marked: list[Path] = []

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            marked.mark(newest, {**self.origin, "epoch": round(state.epoch)})
            self.marked.append(newest)
            drop_resuming(self.marked[:-2])


def drop_resuming(checkpoints: Iterable[Path]) -> None:
    """Remove what only serves to resume: more than half of a checkpoint."""
    for path in checkpoints:
        for pattern in FOR_RESUMING:
            for file in path.glob(pattern):
                file.unlink()


def problem(
    checkpoint: Path, wanted: Mapping[str, Any], without: Sequence[str] = FOR_RESUMING
) -> str | None:
    """What is wrong with a checkpoint, in words that go on from its path; None where nothing is.

    Args:
        checkpoint: its folder.
        wanted: what it must say that it was made from, and its epoch.
        without: patterns of files that it needs not have, by default those that serve to resume.
    """
    try:
        said = marked.read(checkpoint, without)
    except marked.Unusable as error:
        return str(error)
    return checkpoints.mismatch(said, wanted)


def resume_point(every: Sequence[Path], wanted: Mapping[str, Any]) -> Path | None:
    """The last checkpoint that training can go on from, if all before it are whole.

    Says so where a damaged one is passed over.

    Args:
        every: the folders of all epochs' checkpoints, from the first.
        wanted: what they must say that they were made from.
    """
    point = None
    for epoch, path in enumerate(every, start=1):
        expected = {**wanted, "epoch": epoch}
        wrong, incomplete = problem(path, expected), problem(path, expected, ())
        if incomplete is None:
            point = path
        elif (path / FOR_RESUMING[0]).exists() and (path / marked.MARK).exists():
            print(f"{path} {incomplete}: it is passed over", flush=True)
        if wrong is not None:
            break
    return point


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """What transformers raises where a folder cannot be written as one line; it is then gone."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        files.remove(folder)
        raise ResultError(f"{folder} cannot be written: {first_line(error)}") from error
