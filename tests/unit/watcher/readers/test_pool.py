"""The processes that read what may take long: real ones, which answer, are killed, take too long, and come again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import JobInvalid
from jobs.spool.reading import Reading
from tests.spooling import is_running, until
from watcher.config.settings import Config, Limits
from watcher.readers.pool import LARGE_BYTES, MAX_LARGE, Readers

LARGE = b"text: hello\nmetadata: {a: [" + b"1, " * (LARGE_BYTES // 3) + b"1]}\n"
SLOW = b"---\n".join(b"text: a\nunknown: 1\n" for _ in range(900)) + b"# " + b"x" * LARGE_BYTES


@pytest.fixture
def readers(tmp_path: Path) -> Iterator[Readers]:
    with contextlib.closing(Readers(Config(models=tmp_path))) as found:
        yield found


def ended(readers: Readers, reading: Reading) -> Reading:
    def stepped() -> bool:
        readers.step()
        return reading.ended

    until(stepped, "it is read")
    return reading


def pid_of(readers: Readers, *, large: bool) -> int:
    process = (readers._large if large else readers._small).process
    assert process is not None
    return process.popen.pid


def test_files_of_any_size_are_read_and_small_ones_do_not_wait_for_large_ones(readers: Readers) -> None:
    large, small = readers.ask(SLOW, ".yaml"), readers.ask(b"text: b\ncheckpoint: anna", ".yaml")
    (document,) = ended(readers, small).documents()
    assert document.spec is None
    assert "anna" in str(document.problems[0])
    assert len(ended(readers, large).documents()) == 900
    assert pid_of(readers, large=True) != pid_of(readers, large=False)


def test_a_reader_that_dies_is_replaced_and_a_file_that_kills_two_fails(readers: Readers) -> None:
    ended(readers, readers.ask(LARGE, ".yaml"))
    first = pid_of(readers, large=True)
    reading, other = readers.ask(SLOW, ".yaml"), readers.ask(LARGE, ".yaml")
    os.kill(first, signal.SIGKILL)

    def killed_again() -> bool:
        readers.step()
        process = readers._large.process
        if process is not None and process.popen.pid != first and readers._large.current is not None:
            os.kill(process.popen.pid, signal.SIGKILL)
            return True
        return False

    until(killed_again, "it is read again")
    with pytest.raises(JobInvalid, match=r"ends the process that reads it \(SIGKILL\)"):
        ended(readers, reading).documents()
    assert ended(readers, other).documents()


def test_what_takes_longer_than_it_may_fails_and_names_the_limit(tmp_path: Path) -> None:
    config = Config(models=tmp_path, limits=Limits(read_s=0.02))
    with contextlib.closing(Readers(config)) as readers:
        with pytest.raises(JobInvalid, match=r"longer than limits.read_s \(0.02 s\)"):
            ended(readers, readers.ask(SLOW, ".yaml")).documents()
        assert ended(readers, readers.ask(b"text: quick", ".yaml")).documents()


def test_another_configuration_is_read_by_from_then_on(readers: Readers, tmp_path: Path) -> None:
    ended(readers, readers.ask(LARGE, ".yaml"))
    before = pid_of(readers, large=True)
    reading = readers.ask(LARGE, ".yaml")
    readers.configure(Config(models=tmp_path, limits=Limits(text_chars=1)))
    assert not is_running(before)
    (document,) = ended(readers, reading).documents()
    assert "at most 1 are allowed" in str(document.problems)


def test_what_waits_to_be_read_is_bounded(readers: Readers) -> None:
    """A stranger can drop thousands of large files at once."""
    asked = 0
    while not readers.is_full(LARGE_BYTES + 1):
        readers.ask(LARGE, ".yaml")
        asked += 1
    assert asked == MAX_LARGE
    assert not readers.is_full(1)
    assert ended(readers, readers.ask(b"text: a", ".yaml")).documents()


def test_a_reader_that_can_not_be_started_is_trouble_for_as_long_as_it_lasts(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits to be read is read when it can be."""
    with monkeypatch.context() as patch:
        patch.setattr("sys.executable", "/nowhere/python")
        reading = readers.ask(b"text: a", ".yaml")
        assert readers.trouble == "the process that reads job files can't be started: No such file or directory"
    assert ended(readers, reading).documents()
    assert readers.trouble == ""


def test_nothing_is_left_when_it_is_closed(tmp_path: Path) -> None:
    readers = Readers(Config(models=tmp_path))
    ended(readers, readers.ask(b"text: a", ".yaml"))
    pid = pid_of(readers, large=False)
    readers.close()
    assert not is_running(pid)


def test_a_reader_that_the_kernel_holds_keeps_nobody_waiting(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that waits for a disk which does not answer: not even a kill ends it."""
    ended(readers, readers.ask(b"text: a", ".yaml"))
    held = pid_of(readers, large=False)
    os.kill(held, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", lambda _popen: None)
        started_s = time.monotonic()
        readers.configure(readers.config)
        assert time.monotonic() - started_s < 1.0
    assert is_running(held)
    assert ended(readers, readers.ask(b"text: b", ".yaml")).documents()
    (lingering,) = readers._small.lingering
    lingering.kill()

    def reaped() -> bool:
        readers.step()
        return not readers._small.lingering

    until(reaped, "it is reaped when the kernel lets it go")
