"""One daemon per inbox: a second daemon exits, and a daemon that has lost its lock stops."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.spooling import Spool, is_running, until


def chunk_begins(journal: Path) -> None:
    until(journal.exists, "a chunk begins")


def test_a_second_daemon_says_who_has_the_inbox_and_exits_75(spool: Spool) -> None:
    """It changes neither the first daemon nor its status. After the first has ended, even by kill -9, it may start."""
    process = spool.start()
    for way in ((), ("--once",)):
        second = spool.command("run", *way)
        assert second.returncode == 75
        assert f"another daemon has this inbox: process {process.pid} on " in second.stderr
    assert spool.status()["pid"] == process.pid
    spool.drop("a.yaml")
    spool.result("a")
    spool.stop(signal.SIGKILL)
    spool.drop("b.yaml")
    assert spool.once().returncode == 0
    assert spool.results() == ["a", "b"]


@pytest.mark.parametrize("how", ["replaced", "gone", "taken over in place"])
def test_a_daemon_whose_lock_lapsed_stops_without_publishing(spool: Spool, how: str) -> None:
    """Locks on network file systems can lapse: it checks before each publication, exits 75, and leaves the job."""
    gate, journal = spool.folder / "gate", spool.folder / "journal"
    spool.drop("a.yaml", f"text: One.\nsettings: {{gate: {gate}, journal: {journal}}}\n")
    process = spool.start()
    chunk_begins(journal)
    worker = spool.worker_pid()
    lock, other = spool.state / "lock", spool.state / ".other"
    words = {"pid": 4711, "host": "elsewhere", "token": "theirs", "started_at": "2026-11-01T00:00:00+00:00"}
    if how == "gone":
        lock.unlink()
    elif how == "replaced":
        other.write_text(json.dumps(words))
        os.rename(other, lock)
    else:
        lock.write_text(json.dumps(words))
    gate.touch()
    assert process.wait(60) == 75
    assert "this daemon lost its lock on the inbox" in spool.log()
    assert how == "gone" or "process 4711 on elsewhere" in spool.log()
    assert spool.results() == []
    assert len(spool.claims()) == 1
    assert not is_running(worker)
    assert spool.once().returncode == 0
    assert spool.results() == ["a"]
    assert spool.claims() == []
