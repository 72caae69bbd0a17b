"""What a whole checkpoint of the Trainer is, and which one training goes on from."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from lab import files
from lab.errors import ResultError
from lab.text import marked, resuming

ORIGIN = {"settings": {"epochs": 3}, "seed": 0, "data": "0123"}
STEPS = (8, 16, 24)  # of three epochs


class TestCheckpoints:
    def save(self, root: Path, step: int) -> Path:
        """A checkpoint as the Trainer leaves it, before the callback."""
        folder = root / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
            (folder / name).write_text(f"{name} {step}")
        return folder

    @pytest.fixture
    def every(self, tmp_path: Path) -> list[Path]:
        """The checkpoints of three epochs."""
        callback = resuming.MarkWhole(ORIGIN)
        for epoch, step in enumerate(STEPS, start=1):
            self.save(tmp_path, step)
            state = SimpleNamespace(
                global_step=step, epoch=float(epoch), is_world_process_zero=True
            )
            callback.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
        return [tmp_path / f"checkpoint-{step}" for step in STEPS]

    def test_the_newest_two_keep_what_serves_to_resume(self, every):
        names = [{path.name for path in folder.iterdir()} for folder in every]
        assert names[0] == {"model.safetensors", marked.MARK}
        assert names[1] == names[2] > {"optimizer.pt", "rng_state_0.pth"}

    def test_say_what_they_were_made_from_and_which_they_are(self, every):
        said = marked.read(every[1])
        assert {key: said[key] for key in ORIGIN} == ORIGIN
        assert said["epoch"] == 2
        assert resuming.problem(every[1], ORIGIN | {"epoch": 2}) is None
        assert resuming.problem(every[1], ORIGIN | {"epoch": 1}) == "was made with another epoch"

    def test_training_goes_on_from_the_last_whole_one_of_the_same_origin(self, every, capsys):
        assert resuming.resume_point(every, ORIGIN) == every[2]
        assert resuming.resume_point(every[:2], ORIGIN) == every[1]
        assert resuming.resume_point(every[:1], ORIGIN) is None  # it was slimmed
        assert resuming.resume_point(every, ORIGIN | {"seed": 1}) is None
        (every[2] / marked.MARK).unlink()  # was cut off
        assert resuming.resume_point(every, ORIGIN) == every[1]
        (every[0] / "model.safetensors").unlink()  # a hole before it
        assert resuming.resume_point(every, ORIGIN) is None

    DAMAGES: ClassVar = {
        "a flipped bit": lambda path: (path / "optimizer.pt").write_text("optimizer.pt 34"),
        "a missing file": lambda path: (path / "rng_state_0.pth").unlink(),
        "a folder for a file": lambda path: [
            (path / "scheduler.pt").unlink(),
            (path / "scheduler.pt").mkdir(),
        ],
        "an empty mark": lambda path: (path / marked.MARK).write_text(""),
        "a mark of something else": lambda path: (path / marked.MARK).write_text("[1]"),
    }

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_one_is_passed_over_for_the_one_before_it_and_said_so(
        self, damage, every, capsys
    ):
        self.DAMAGES[damage](every[2])
        assert resuming.resume_point(every, ORIGIN) == every[1]
        out = capsys.readouterr().out
        assert re.fullmatch(rf"{every[2]} .+: it is passed over\n", out), out

    def test_whatever_else_lies_there_does_not_matter(self, every, tmp_path):
        (tmp_path / "checkpoint-foo").mkdir()
        (tmp_path / "checkpoint-99").symlink_to(tmp_path)
        assert resuming.resume_point(every, ORIGIN) == every[2]

    def test_only_the_first_process_marks(self, tmp_path):
        folder = self.save(tmp_path, 8)
        state = SimpleNamespace(global_step=8, epoch=1.0, is_world_process_zero=False)
        arguments = SimpleNamespace(output_dir=str(tmp_path))
        resuming.MarkWhole(ORIGIN).on_save(arguments, state, None)
        assert not (folder / marked.MARK).exists()

    @pytest.mark.parametrize(
        "error", [OSError(28, "No space left on device"), RuntimeError("write failed\nat …")]
    )
    def test_one_that_cannot_be_written_is_one_line_and_gone(self, error, tmp_path):
        folder = self.save(tmp_path, 8)
        with pytest.raises(ResultError) as caught, resuming.saving(folder):
            raise error
        assert str(caught.value).startswith(f"{folder} cannot be written: ")
        assert "\n" not in str(caught.value)
        assert not folder.exists()


class TestMarked:
    def test_a_name_in_a_mark_never_leaves_its_folder(self, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        (tmp_path / "secret").write_text("x")
        digest = files.sha256(tmp_path / "secret")
        (folder / marked.MARK).write_text(json.dumps({"files": {"../secret": digest}}))
        with pytest.raises(marked.Unusable):
            marked.read(folder)

    def test_is_whole_until_a_file_changes(self, tmp_path):
        (tmp_path / "file").write_text("content")
        with pytest.raises(marked.Unusable, match="is not whole"):
            marked.read(tmp_path)
        for _ in range(2):
            left = tmp_path / f"{files._prefix(tmp_path / marked.MARK)}0123.tmp"
            left.touch()  # by a process that was killed
            marked.mark(tmp_path, {"sources": "0123"})
            assert not left.exists()
            assert marked.read(tmp_path)["sources"] == "0123"
        (tmp_path / "file").write_text("Content")
        with pytest.raises(marked.Unusable, match=r"was damaged after it was written \(file\)"):
            marked.read(tmp_path)
        assert marked.read(tmp_path, without=("f*",))
