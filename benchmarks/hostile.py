"""How a spool fares under all that a stranger can drop at once: `make bench-hostile`.

The daemon is an ordinary user where root measures, everybody else measures with one user. `tests/hostile.py` is dropped
as a whole, and its moving parts keep moving to the end; another user drops a plain job every second. Those go
first in the queue (priority 9): how long one waits behind good jobs of other people is not what is measured.

Three figures, each with a bound: the longest time that the daemon's loop was away, from the
moment a plain job is dropped to its publication, and the daemon's memory. The first one is what systemd sees: the time
between two signs of life (`WATCHDOG=1`), by the kernel's clock, of a daemon that is asked for ten a second; that this
measures what it should is tried first, with an idle daemon, and with one that is stopped for a while.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from machine import machine

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import hostile
from tests.spooling import ROOT, Spool, spooling, until
from tests.users import COLLEAGUE, DAEMON, STRANGER, share

RESULTS = Path(__file__).parent / "results"
SIGN_OF_LIFE_S = 0.1
SO_TIMESTAMPNS = 35  # socket(7); Python has no name for it
BOUNDS = {"loop_away_s": 1.0, "plain_job_s": 3.0, "daemon_mb": 200.0}
SEVERAL_USERS = os.geteuid() == 0


# --- from outside: signs of life, memory -----------------------------------------------------------------------------


@dataclass(slots=True)
class SignsOfLife:
    """A socket that the daemon takes for systemd's; when each sign came, by the kernel's clock (Unix time, seconds)."""

    path: Path
    moments: list[float] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, Any]:
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(round(2e6 * SIGN_OF_LIFE_S))}

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.bind(str(self.path))
            self.path.chmod(0o777)
            channel.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            end, ended = os.pipe()
            listener = threading.Thread(target=self._listen, args=(channel, end))
            listener.start()
            try:
                yield
            finally:
                os.close(ended)
                listener.join()
                os.close(end)

    def _listen(self, channel: socket.socket, end: int) -> None:
        while end not in select.select([channel.fileno(), end], [], [])[0]:
            data, said, _flags, _sender = channel.recvmsg(4096, 64)
            if b"WATCHDOG=1" in data.splitlines():
                seconds, nanoseconds = struct.unpack("qq", said[0][2][:16])
                self.moments.append(seconds + nanoseconds / 1e9)

    def longest_s(self, since: float, until_: float) -> float:
        """Longest time without a sign between two moments, both counted as signs."""
        signs = [since, *(moment for moment in list(self.moments) if since < moment < until_), until_]
        return max(later - earlier for earlier, later in pairwise(signs))


@dataclass(slots=True)
class Memory:
    """Most memory that a daemon and each of its children took, in bytes; the kernel keeps each one's peak."""

    daemon: int = 0
    children: Counter[str] = field(default_factory=Counter)

    def look(self, pid: int) -> bool:
        """Look at all of them. Returns whether the daemon is alive."""
        self.daemon = max(self.daemon, _peak(pid))
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    name = _module(child.cmdline())
                    self.children[name] = max(self.children[name], _peak(child.pid))
        return _peak(pid) > 0


def _module(words: list[str]) -> str:
    """What a child runs: its module, or its first words."""
    return words[words.index("-m") + 1] if "-m" in words[:-1] else " ".join(words[:2]) or "a child that ended"


def _peak(pid: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) << 10 if found else 0


# --- the spool -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fresh(engine: str) -> Iterator[Spool]:
    """A spool with the waits that users get: of several users where root measures, else of this one."""
    config: dict[str, Any] = {"ready": {}, "defaults": {"engine": engine}}
    if SEVERAL_USERS:
        with share(**config) as spool:
            spool.inbox.chmod(0o3777)
            yield spool
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        spooling(Path(folder) / "spool", state_dir=str(Path(folder) / "spool/state"), **config) as spool,
    ):
        yield spool


@contextlib.contextmanager
def acting(name: str) -> Iterator[None]:
    with {"stranger": STRANGER, "colleague": COLLEAGUE}[name].acting() if SEVERAL_USERS else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def running(script: Path, *arguments: str | Path) -> Iterator[None]:
    """A script of the stranger's, until the end of the block."""
    if SEVERAL_USERS:
        with STRANGER.running(script, *arguments):
            yield
        return
    with subprocess.Popen([sys.executable, script, *arguments]) as process:
        try:
            yield
        finally:
            process.kill()


# --- is the method right? --------------------------------------------------------------------------------------------


def method(engine: str, idle_s: float = 5.0, stopped_s: float = 1.5) -> dict[str, float]:
    """What is measured of an idle daemon, and of one that gets no time for a while."""
    with fresh(engine) as spool:
        signs = SignsOfLife(spool.folder / "notify")
        with signs.heard():
            process = spool.start(**signs.environment)
            since = time.time()
            pass_time(idle_s)
            idle = signs.longest_s(since, time.time())
            process.send_signal(signal.SIGSTOP)
            since = time.time()
            pass_time(stopped_s)
            process.send_signal(signal.SIGCONT)
            until(lambda: signs.moments[-1] > since + stopped_s, "a sign of life")
            away = signs.longest_s(since - SIGN_OF_LIFE_S, time.time())
            spool.stop()
    assert stopped_s <= away < stopped_s + 0.5, f"stopped for {stopped_s} s, measured {away} s"
    assert idle < 0.5, f"an idle daemon on this machine is away for {idle} s: too busy to measure"
    return {"idle_s": round(idle, 3), f"stopped_for_{stopped_s}_s": round(away, 3)}


def pass_time(seconds: float) -> None:
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, "time passes", 2 * seconds + 60)


# --- under the whole set ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Stream:
    """Plain jobs, one a second, and when each was dropped (Unix time, seconds)."""

    spool: Spool
    dropped: list[float] = field(default_factory=list)

    def drop(self) -> None:
        with acting("colleague"):
            self.dropped.append(time.time())
            job = f"text: Number {len(self.dropped)}.\npriority: 9\n"
            self.spool.drop(f"plain-{len(self.dropped)}.yaml", job)

    def took_s(self) -> list[float | None]:
        """From drop to publication, which is a rename and sets the folder's change time; None for what never came."""
        return [self._took_s(number, moment) for number, moment in enumerate(self.dropped, start=1)]

    def _took_s(self, number: int, dropped: float) -> float | None:
        try:
            return (self.spool.outbox / f"plain-{number}").stat().st_ctime_ns / 1e9 - dropped
        except FileNotFoundError:
            return None

    def published(self) -> bool:
        return None not in self.took_s()


def under_attack(engine: str, drops: int, patience_s: float) -> dict[str, Any]:
    """Drop everything, then plain jobs, and measure until they and the good jobs of the set are published."""
    with fresh(engine) as spool, contextlib.ExitStack() as moving:
        staged = stage(spool)
        signs, memory, stream = SignsOfLife(spool.folder / "notify"), Memory(), Stream(spool)
        moving.enter_context(signs.heard())
        process = spool.start(**signs.environment)
        since = time.time()
        drop_all(spool, staged, moving)
        for _ in range(drops):
            due = time.monotonic() + 1.0
            stream.drop()
            while time.monotonic() < due:
                memory.look(process.pid)
                pass_time(0.02)
        with contextlib.suppress(AssertionError):  # what is late or lost is told, not hidden
            until(lambda: memory.look(process.pid) and stream.published() and good(spool), "all", patience_s)
        away, alive = signs.longest_s(since, time.time()), process.poll() is None
        memory.look(process.pid)
        state = spool.status().get("state")
        counts = Counter(Path(name).name.partition("~")[0] for name in spool.results())
        took = stream.took_s()
        lost = [number for number, seconds in enumerate(took, start=1) if seconds is None]
        twice = [name for name, count in counts.items() if name.startswith("plain") and count > 1]
        process.kill()
    came = [seconds for seconds in took if seconds is not None]
    return {
        "loop_away_s": round(away, 3),
        "plain_job_s": {"jobs": drops, "median": _of(statistics.median, came), "max": _of(max, came)},
        "not_published": len(lost),
        "published_twice": len(twice),
        "good_jobs_of_the_set_published": sum(name.startswith("plain_documents-") for name in counts),
        "daemon_mb": round(memory.daemon / 1e6, 1),
        "children_mb": {name: round(peak / 1e6, 1) for name, peak in memory.children.most_common(8)},
        "alive_at_the_end": alive,
        "state_at_the_end": state,
    }


def _of(measure: Any, values: list[float]) -> float | None:
    return round(measure(values), 3) if values else None


def good(spool: Spool) -> bool:
    folder = spool.outbox / "plain_documents"
    return folder.is_dir() and len(os.listdir(folder)) >= hostile.PLAIN_DOCUMENTS


def stage(spool: Spool) -> Path:
    """Write the set where it can be dropped from by renames, as the stranger."""
    staged, models = spool.folder / "staged", spool.folder / "models"
    for folder in (staged, models):
        folder.mkdir(exist_ok=True)
        if SEVERAL_USERS:
            STRANGER.owns(folder)
            folder.chmod(0o2775)
    with acting("stranger"):
        hostile.write(staged, models)
        (staged / "moving").mkdir()
        (staged / "shut").mkdir()
        (staged / "shut" / "shut.yaml").write_text("text: Its folder is shut.\n")
    if SEVERAL_USERS:
        by_root(spool, staged)
    return staged


def by_root(spool: Spool, staged: Path) -> None:
    private = spool.folder / "private.yaml"
    private.write_text("text: Private.\n")
    private.chmod(0o600)
    DAEMON.owns(private)
    for name in ("hard_links", "a_device"):
        (staged / name).mkdir()
        STRANGER.owns(staged / name)
        (staged / name).chmod(0o2775)
    hostile.hard_links(staged / "hard_links", private)
    hostile.a_device(staged / "a_device")


def drop_all(spool: Spool, staged: Path, moving: contextlib.ExitStack) -> None:
    """The whole set at once, and then what moves."""
    with acting("stranger"):
        for folder in sorted(staged.iterdir()):
            folder.rename(spool.inbox / folder.name)
        (spool.inbox / "other").symlink_to("/etc")
    moving.enter_context(
        running(ROOT / "tests/exchanging.py", spool.inbox / "moving", spool.inbox / "other", "passwd", "1000000000")
    )
    moving.enter_context(shut_after_the_claim(spool.inbox / "shut"))


@contextlib.contextmanager
def shut_after_the_claim(folder: Path) -> Iterator[None]:
    """Once its job is claimed, nobody may enter the folder any more."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            if not os.path.lexists(folder / "shut.yaml"):
                folder.chmod(0o000)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def within(found: dict[str, Any]) -> dict[str, bool]:
    """Which of the bounds were kept to."""
    slowest = found["plain_job_s"]["max"]
    return {
        "loop_away_s": found["loop_away_s"] <= BOUNDS["loop_away_s"],
        "plain_job_s": slowest is not None and slowest <= BOUNDS["plain_job_s"] and not found["not_published"],
        "daemon_mb": found["daemon_mb"] <= BOUNDS["daemon_mb"],
        "nothing_lost_or_twice": not found["not_published"]
        and not found["published_twice"]
        and found["good_jobs_of_the_set_published"] == hostile.PLAIN_DOCUMENTS,
        "alive": found["alive_at_the_end"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="instant", help="instant measures the spool alone; espeak a real engine")
    parser.add_argument("--drops", type=int, default=90, help="plain jobs, one a second")
    parser.add_argument("--patience", type=float, default=300.0, help="longest wait for the last of them, in seconds")
    parser.add_argument("--output", type=Path, default=RESULTS / "hostile.json")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "engine": arguments.engine, "several_users": SEVERAL_USERS}
    report["method"] = method(arguments.engine)
    report |= under_attack(arguments.engine, arguments.drops, arguments.patience)
    report |= {"bounds": BOUNDS, "within": within(report)}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if all(report["within"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
