"""Files: whole or not at all; what the system refuses is one line; one process at a time."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lab import files
from lab.errors import ResultError

SOURCE = Path(files.__file__).parents[1]


def refusal(action, *arguments, **keywords) -> str:
    """The one line of the ResultError that an action raises."""
    with pytest.raises(ResultError) as caught:
        action(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path: Path, content: bytes = b"content") -> None:
    files.write_whole(path, lambda file: file.write(content))


class TestWriteWhole:
    @pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
    def test_the_umask_decides_the_mode_of_files_and_folders(self, umask, tmp_path):
        before = os.umask(umask)
        try:
            write(tmp_path / "a" / "file")
            with files.folder_whole(tmp_path / "b") as folder:
                (folder / "file").touch()
        finally:
            os.umask(before)
        for path, most in (("a/file", 0o666), ("a", 0o777), ("b", 0o777), ("b/file", 0o666)):
            assert stat.S_IMODE((tmp_path / path).stat().st_mode) == most & ~umask

    def test_replaces_what_was_there_even_what_is_no_plain_file(self, tmp_path):
        path, target = tmp_path / "file", tmp_path / "target"
        target.write_bytes(b"other")
        for make in (path.touch, lambda: os.mkfifo(path), lambda: path.symlink_to(target)):
            path.unlink(missing_ok=True)
            make()
            write(path)
            assert not path.is_symlink()
            assert path.read_bytes() == b"content"
        assert target.read_bytes() == b"other"

    @pytest.mark.parametrize("length", [100, 255])
    def test_a_name_may_be_as_long_as_the_system_takes(self, length, tmp_path):
        path = tmp_path / ("a" * length)
        write(path)
        assert list(tmp_path.iterdir()) == [path]

    def test_a_name_that_is_too_long_is_one_line(self, tmp_path):
        assert "File name too long" in refusal(write, tmp_path / ("a" * 256))
        assert "File name too long" in refusal(files.exists, tmp_path / ("a" * 256))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("place", ["file/a", "dangling/a", "loop/a", "/proc/a/b"])
    def test_what_is_in_the_way_is_one_line_that_names_the_file(self, place, tmp_path):
        (tmp_path / "file").touch()
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        assert str(tmp_path / place) in refusal(write, tmp_path / place)

    def test_a_file_that_is_too_large_is_one_line_and_leaves_what_was_there(self, tmp_path):
        path = tmp_path / "file"
        write(path)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            line = refusal(write, path, bytes(2000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert line == f"{path} cannot be written: File too large"
        assert path.read_bytes() == b"content"
        assert list(tmp_path.iterdir()) == [path]

    def test_what_a_killed_process_left_of_a_file_is_removed_and_nothing_else(self, tmp_path):
        write(tmp_path / "other")
        code = (
            f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
            "import os; from pathlib import Path; from lab import files\n"
            "for name in ('mine', 'others'):\n"
            "    if os.fork() == 0:\n"
            "        files.write_whole(Path(name), lambda _: os.kill(os.getpid(), 9))\n"
            "    os.wait()\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        assert len(list(tmp_path.glob(".*.tmp"))) == 2
        files.remove_left(tmp_path / "mine")
        (left,) = tmp_path.glob(".*.tmp")
        files.remove_left(tmp_path / "others")
        assert not left.exists()
        assert list(tmp_path.iterdir()) == [tmp_path / "other"]

    def test_what_was_left_goes_with_the_next_write_and_what_is_being_written_stays(self, tmp_path):
        path = tmp_path / "file"
        begin = "import os, sys; files.write_whole(Path('file'), lambda _: {})\n"
        code = (
            f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
            "from pathlib import Path; from lab import files\n"
        )
        dead = code + begin.format("os.kill(os.getpid(), 9)")
        slow = code + begin.format("(print('begun', flush=True), sys.stdin.read())")
        subprocess.run([sys.executable, "-c", dead], cwd=tmp_path, check=False)
        (left,) = tmp_path.iterdir()
        with subprocess.Popen(
            [sys.executable, "-c", slow], cwd=tmp_path, stdin=-1, stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout.readline() == b"begun\n"
            assert not left.exists()
            (begun,) = tmp_path.iterdir()
            write(path)
            files.remove_left(path)
            assert set(tmp_path.iterdir()) == {begun, path}
            writer.stdin.close()
            assert writer.wait() == 0
        assert path.read_bytes() == b""  # the slow one's, the last
        assert list(tmp_path.iterdir()) == [path]

    def test_a_folder_is_there_whole_or_as_it_was(self, tmp_path):
        path = tmp_path / "folder"
        for content in (b"first", b"second"):
            with files.folder_whole(path) as folder:
                (folder / "file").write_bytes(content)
        with pytest.raises(ResultError), files.folder_whole(path) as folder:
            write(folder / ("a" * 300))
        assert (path / "file").read_bytes() == b"second"
        assert list(tmp_path.iterdir()) == [path]


class TestOpenPlain:
    def test_waits_for_nothing_and_follows_links_only_where_asked(self, tmp_path):
        path, link, fifo = (tmp_path / name for name in ("file", "link", "fifo"))
        path.write_bytes(b"content")
        link.symlink_to(path)
        os.mkfifo(fifo)
        with files.open_plain(link) as file:
            assert file.read() == b"content"
        for wrong, follow in ((link, False), (fifo, True), (tmp_path, True), ("/dev/zero", True)):
            with pytest.raises(OSError, match=r"plain file|symbolic links"):
                files.open_plain(Path(wrong), follow)


class TestWritable:
    def test_a_folder_that_is_not_there_yet_is_fine_and_is_not_made(self, tmp_path):
        files.check_writable(tmp_path / "a" / "b")
        assert list(tmp_path.iterdir()) == []

    def test_what_a_process_left_that_was_killed_while_it_tried_is_removed(
        self, tmp_path, monkeypatch
    ):
        with monkeypatch.context() as patch:
            patch.setattr(files, "remove", lambda _: None)
            files.check_writable(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        files.check_writable(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_two_that_ask_at_once_are_not_in_each_others_way(self, tmp_path):
        code = (
            f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
            "from pathlib import Path; from lab import files\n"
            "for _ in range(300):\n"
            "    files.check_writable(Path('a/b'))\n"
            "    files.write_whole(Path('file'), lambda file: file.write(b'content'))\n"
        )
        words = [sys.executable, "-c", code]
        both = [subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(2)]
        assert [process.communicate()[1] for process in both] == [b"", b""]
        assert list(tmp_path.iterdir()) == [tmp_path / "file"]

    @pytest.mark.parametrize(
        ("place", "reason"),
        [
            ("file", "file is not a folder"),
            ("file/a/results", "file is not a folder"),
            ("dangling", "dangling is not a folder"),
            ("loop/results", "loop is not a folder"),
            ("a" * 300, "File name too long"),
            ("/proc/results", "No such file"),
            ("/sys/results", "cannot be written to"),
        ],
    )
    def test_what_is_in_the_way_is_one_line(self, place, reason, tmp_path):
        (tmp_path / "file").write_text("in the way")
        (tmp_path / "file").chmod(0o755)
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        before = set(tmp_path.rglob("*"))
        line = refusal(files.check_writable, tmp_path / place)
        assert str(tmp_path / place) in line
        assert reason in line
        assert set(tmp_path.rglob("*")) == before

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_permission_is_one_line(self, tmp_path):
        tmp_path.chmod(0o555)
        assert "Permission denied" in refusal(files.check_writable, tmp_path / "results")

    def test_a_full_disk_is_one_line(self, tmp_path, monkeypatch):
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "write", full)
            line = refusal(files.check_writable, tmp_path / "a")
        assert "No space left on device" in line
        assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys
sys.path.insert(0, {source!r})
from pathlib import Path
from lab import files
with files.locked(Path("lock"), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


class TestLocked:
    def test_by_another_process_is_one_line_with_its_number_until_it_is_killed(self, tmp_path):
        words = [sys.executable, "-c", HOLDER.format(source=str(SOURCE))]
        with subprocess.Popen(
            words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout.readline() == b"held\n"
            lock = files.locked(tmp_path / "lock", "it")
            line = refusal(lock.__enter__)
            assert line == f"it is in use by another process, {holder.pid}: wait until it has ended"
            holder.kill()
            holder.wait()
        assert (tmp_path / "lock").exists()
        with files.locked(tmp_path / "lock", "it"):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_is_shared_by_readers_and_not_with_a_writer(self, tmp_path):
        path = tmp_path / "lock"
        with files.locked(path, "it", shared=True), files.locked(path, "it", shared=True):
            assert "it is in use by another process: wait" in refusal(
                files.locked(path, "it").__enter__
            )
        with files.locked(path, "it"):
            refusal(files.locked(path, "it", shared=True).__enter__)
        assert list(tmp_path.iterdir()) == []

    def test_waits_where_asked(self, tmp_path):
        order, path = [], tmp_path / "lock"

        def second() -> None:
            with files.locked(path, "it", wait=True):
                order.append("second")

        with files.locked(path, "it"):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(0.2)
            order.append("first")
        thread.join()
        assert order == ["first", "second"]
        assert list(tmp_path.iterdir()) == []

    def test_many_at_once_never_hold_it_together(self, tmp_path):
        inside, most, path = 0, [], tmp_path / "lock"

        def hold() -> None:
            nonlocal inside
            for _ in range(30):
                with files.locked(path, "it", wait=True):
                    inside += 1
                    most.append(inside)
                    inside -= 1

        threads = [threading.Thread(target=hold) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 120
        assert list(tmp_path.iterdir()) == []

    def test_a_link_in_its_place_is_not_followed(self, tmp_path):
        (tmp_path / "lock").symlink_to(tmp_path / "target")
        refusal(files.locked(tmp_path / "lock", "it").__enter__)
        assert not (tmp_path / "target").exists()
