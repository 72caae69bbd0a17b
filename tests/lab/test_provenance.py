"""What made a number: any change of code, packages, processor or data gives another key."""

import shutil
from pathlib import Path

import pytest

from lab import provenance
from lab.errors import DataError

SOURCE = Path(provenance.__file__).parents[1]


def test_a_program_outside_git_has_an_unknown_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit.__wrapped__() == "unknown"


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
