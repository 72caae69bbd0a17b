"""What made a number: any change of code, packages, processor or data gives another key."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import provenance
from lab.errors import DataError

SOURCE = Path(provenance.__file__).parents[1]


def test_a_program_outside_git_has_an_unknown_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit.__wrapped__() == "unknown"


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *own, *words]
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_repository(folder: Path, *add: str) -> str:
    """A repository with a commit; returns its first twelve digits."""
    folder.mkdir(exist_ok=True)
    git(folder, "init", "-q")
    (folder / "file").touch()
    git(folder, "add", "file", *add)
    git(folder, "commit", "-qm", "first")
    return git(folder, "rev-parse", "--short=12", "HEAD")


class TestCommit:
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        """A tree of this project's shape."""
        module = tmp_path / "outer" / "copy" / "src" / "lab" / "provenance.py"
        module.parent.mkdir(parents=True)
        module.touch()
        return module.parents[2]

    def said(self, root: Path) -> str:
        return provenance.commit_of(root / "src" / "lab" / "provenance.py")

    def test_is_of_the_trees_own_repository(self, root):
        commit = make_repository(root, "src")
        assert self.said(root) == commit
        (root / "src" / "experiment").mkdir(exist_ok=True)
        (root / "src" / "experiment" / "mine.py").touch()
        assert self.said(root) == f"{commit}-dirty"
        (root / "src" / "experiment" / "mine.py").unlink()
        assert self.said(root) == commit
        (root / "src" / "lab" / "provenance.py").write_text("edited")
        assert self.said(root) == f"{commit}-dirty"

    def test_is_read_without_writing_the_index(self, root):
        commit, module = make_repository(root, "src"), root / "src" / "lab" / "provenance.py"
        os.utime(module, (0, 0))  # git would note that it looked again, under a lock
        index = (root / ".git" / "index").read_bytes()
        assert self.said(root) == commit
        assert (root / ".git" / "index").read_bytes() == index

    def test_is_unknown_within_another_repository(self, root):
        assert self.said(root) == "unknown"
        make_repository(root.parent)
        assert self.said(root) == "unknown"
        git(root.parent, "add", ".")
        git(root.parent, "commit", "-qm", "theirs")
        assert self.said(root) == "unknown"

    def test_is_unknown_where_another_repository_lies_in_its_place(self, root):
        make_repository(root)  # the source is not in it
        assert self.said(root) == "unknown"

    def test_is_not_what_the_environment_names(self, root, tmp_path, monkeypatch):
        make_repository(tmp_path / "other")
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
        monkeypatch.setenv("GIT_WORK_TREE", str(root))
        assert self.said(root) == "unknown"
        commit = make_repository(root, "src")
        assert self.said(root) == commit

    def test_of_an_archive_is_unknown(self, root):
        make_repository(root.parent, "copy")
        archive = Path(shutil.make_archive(str(root.parent / "a"), "zip", root / "src"))
        assert provenance.commit_of(archive / "lab" / "provenance.py") == "unknown"

    def test_here_is_what_git_says_or_unknown(self):
        said = provenance.commit().removesuffix("-dirty")
        assert said == "unknown" or git(SOURCE.parent, "rev-parse", "HEAD").startswith(said)


def test_the_code_of_an_archive_is_named_by_its_content(tmp_path):
    names = {hashlib.sha256().hexdigest()[:16]}  # of nothing
    for text in ("one", "other"):
        (tmp_path / "src" / "core").mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / "core" / "agop.py").write_text(text)
        archive = Path(shutil.make_archive(str(tmp_path / text), "zip", tmp_path / "src"))
        names |= {provenance.digest_code(archive), provenance.digest_code(archive / "src")}
    assert len(names) == 3


def test_the_code_is_named_by_its_content_alone(tmp_path):
    root = tmp_path / "src"
    shutil.copytree(SOURCE, root, ignore=shutil.ignore_patterns("__pycache__"))
    first = provenance.digest_code(root)
    assert first == provenance.sources()
    file = root / "core" / "agop.py"
    file.touch()
    (root / "report" / "new.py").touch()  # shapes no number
    assert provenance.digest_code(root) == first
    file.write_bytes(file.read_bytes() + b"\n")
    second = provenance.digest_code(root)
    file.rename(root / "core" / "other.py")
    third = provenance.digest_code(root)
    (root / "experiment" / "new.py").touch()
    assert len({first, second, third, provenance.digest_code(root)}) == 4


def test_a_key_changes_with_all_that_parts_of_a_result_must_share(monkeypatch):
    keys = [provenance.key("data", "cpu"), provenance.key("other data", "cpu")]
    monkeypatch.setattr(provenance, "device_name", lambda device: device)
    keys.append(provenance.key("data", "cuda"))
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "sources", lambda: "0123")
        keys.append(provenance.key("data", "cpu"))
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0.1"})
    keys.append(provenance.key("data", "cpu"))
    assert len(set(keys)) == 5


class TestFaithful:
    def test_works_with_the_code_and_the_data_of_who_made_it(self, monkeypatch):
        def read(fingerprint: str) -> str:
            provenance.check_fingerprint("mine", fingerprint)
            provenance.check_fingerprint("something else", "ffff")
            return fingerprint

        work = provenance.Faithful(read, {"mine": "0123"})
        assert work("0123") == "0123"
        with pytest.raises(DataError, match=r"^mine has changed"):
            work("4567")
        assert read("4567") == "4567"  # it is over
        monkeypatch.setattr(provenance, "sources", lambda: "edited")
        with pytest.raises(DataError, match=r"^the source code has changed"):
            work("0123")
