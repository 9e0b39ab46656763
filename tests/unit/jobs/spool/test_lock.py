"""One daemon per inbox, with real processes that hold, lose and ask."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.errors import LockHeld, LockLost
from jobs.spool.lock import Lock, holder

HOLD = """
import sys
from pathlib import Path
from jobs.spool.lock import Lock
lock = Lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_daemon(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until the end of the block, or until it is killed."""
    root = str(Path(__file__).parents[4])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield process
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def test_the_second_one_is_told_who_holds_it_and_a_kill_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with another_daemon(path) as other:
        with pytest.raises(LockHeld, match=f"process {other.pid} on "):
            Lock.acquire(path)
        assert (holder(path) or {})["pid"] == other.pid
        other.kill()
        other.wait()
        assert holder(path) is None
        lock = Lock.acquire(path)
        lock.check()
        lock.release()


def test_the_word_of_a_stale_file_counts_for_nothing(tmp_path: Path) -> None:
    """Not even when a process of that id lives."""
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": os.getpid(), "host": "here", "token": "x", "started_at": "then"}) + " " * 500)
    assert holder(path) is None
    lock = Lock.acquire(path)
    lock.check()
    assert json.loads(path.read_bytes())["token"] == lock.token
    lock.release()


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"pid": "\\u001b[2J\\nfake line"}', b"\xff"])
def test_a_holder_that_left_rubbish_is_still_the_holder(tmp_path: Path, content: bytes) -> None:
    """Its words can't forge a line in a log."""
    path = tmp_path / "lock"
    lock = Lock.acquire(path)
    path.write_bytes(content)
    with pytest.raises(LockHeld) as caught:
        Lock.acquire(path)
    assert caught.value.message.isprintable()
    lock.release()


def test_asking_who_holds_it_does_not_keep_a_daemon_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`holder` has the lock shared for some microseconds: a daemon that starts just then waits that long."""
    path = tmp_path / "lock"
    path.touch()
    asking = os.open(path, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _seconds: fcntl.flock(asking, fcntl.LOCK_UN))
    lock = Lock.acquire(path)
    lock.check()
    lock.release()
    os.close(asking)


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert holder(tmp_path / "lock") is None
    (tmp_path / "link").symlink_to(tmp_path / "lock")
    assert holder(tmp_path / "link") is None


def test_the_lock_file_is_never_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        Lock.acquire(tmp_path / "lock")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_lock_that_lapsed_is_noticed(tmp_path: Path) -> None:
    """On network file systems: the file is gone, is another one, or names somebody else."""
    path = tmp_path / "lock"
    mine = Lock.acquire(path)
    mine.check()
    path.rename(tmp_path / "away")
    with pytest.raises(LockLost, match="does not name its holder"):
        mine.check()
    theirs = Lock.acquire(path)
    with pytest.raises(LockLost):
        mine.check()
    theirs.release()
    (tmp_path / "away").rename(path)
    mine.check()
    path.write_text(json.dumps({"pid": 1, "host": "other", "token": "not mine", "started_at": "now"}))
    with pytest.raises(LockLost, match="process 1 on other, since now"):
        mine.check()
    mine.release()


def test_a_file_system_that_does_not_answer_is_no_lost_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock.acquire(tmp_path / "lock")

    def stale(*_arguments: object, **_keywords: object) -> os.stat_result:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stale)
        with pytest.raises(OSError, match="Stale"):
            lock.check()
    lock.check()
    lock.release()
