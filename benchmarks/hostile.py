"""Measures a spool under all hostile files at once: `make bench-hostile`.

A stranger drops all files of `tests/hostile.py`; scripts that exchange files run until the end. Meanwhile another user
drops a plain job every second, with priority 9, so that waiting behind other good jobs is not measured. If root runs
this, daemon, stranger and user are different users, otherwise the same one.

Three figures, each with a bound: the longest time that the daemon's loop was blocked, the time from drop to
publication of the plain jobs, and the daemon's memory. The first is measured as systemd does, by the time between
watchdog messages (`WATCHDOG=1`) by the kernel's clock; the daemon is configured to send ten per second. This method is
checked first, with an idle daemon and with one that is stopped for a while.
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
WATCHDOG_S = 0.1
SO_TIMESTAMPNS = 35  # socket(7); missing in Python's socket module
BOUNDS = {"loop_away_s": 1.0, "plain_job_s": 3.0, "daemon_mb": 200.0}
SEVERAL_USERS = os.geteuid() == 0


# --- watchdog messages and memory ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Watchdog:
    """A notification socket as systemd's.

    Attributes:
        path: Of the socket.
        times: When each watchdog message was received, by the kernel's clock: Unix time in seconds.
    """

    path: Path
    times: list[float] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, Any]:
        """For the daemon, which sends a message each half of WATCHDOG_USEC."""
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(round(2e6 * WATCHDOG_S))}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
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
            data, ancillary, _flags, _sender = channel.recvmsg(4096, 64)
            if b"WATCHDOG=1" in data.splitlines():
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
                self.times.append(seconds + nanoseconds / 1e9)

    def longest_s(self, start: float, end: float) -> float:
        """Longest time without a message from start to end (Unix time, seconds)."""
        times = [start, *(received for received in list(self.times) if start < received < end), end]
        return max(later - earlier for earlier, later in pairwise(times))


@dataclass(slots=True)
class Memory:
    """Peak memory of a daemon and of its child processes by module, in bytes, as counted by the kernel."""

    daemon: int = 0
    children: Counter[str] = field(default_factory=Counter)

    def update(self, pid: int) -> bool:
        """Read the peaks of the daemon and its children. Returns whether the daemon is alive."""
        self.daemon = max(self.daemon, _peak(pid))
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    name = _module(child.cmdline())
                    self.children[name] = max(self.children[name], _peak(child.pid))
        return _peak(pid) > 0


def _module(words: list[str]) -> str:
    """The module that a process runs, or the first two words of its command."""
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
    """A new spool with the default waits; with several users if run by root."""
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
    """Run a script as the stranger until the end of the block."""
    if SEVERAL_USERS:
        with STRANGER.running(script, *arguments):
            yield
        return
    with subprocess.Popen([sys.executable, script, *arguments]) as process:
        try:
            yield
        finally:
            process.kill()


# --- check of the method ---------------------------------------------------------------------------------------------


def check_method(engine: str, idle_s: float = 5.0, stopped_s: float = 1.5) -> dict[str, float]:
    """Measure an idle daemon, and one that is stopped for a while."""
    with fresh(engine) as spool:
        watchdog = Watchdog(spool.folder / "notify")
        with watchdog.listening():
            process = spool.start(**watchdog.environment)
            start = time.time()
            pass_time(idle_s)
            idle = watchdog.longest_s(start, time.time())
            process.send_signal(signal.SIGSTOP)
            start = time.time()
            pass_time(stopped_s)
            process.send_signal(signal.SIGCONT)
            until(lambda: watchdog.times[-1] > start + stopped_s, "a watchdog message")
            blocked = watchdog.longest_s(start - WATCHDOG_S, time.time())
            spool.stop()
    assert stopped_s <= blocked < stopped_s + 0.5, f"stopped for {stopped_s} s, measured {blocked} s"
    assert idle < 0.5, f"an idle daemon is blocked for {idle} s: this machine is too busy for this benchmark"
    return {"idle_s": round(idle, 3), f"stopped_for_{stopped_s}_s": round(blocked, 3)}


def pass_time(seconds: float) -> None:
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, "time passes", 2 * seconds + 60)


# --- with all hostile files ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PlainJobs:
    """Plain jobs, and when each was dropped (Unix time, seconds)."""

    spool: Spool
    dropped: list[float] = field(default_factory=list)

    def drop(self) -> None:
        with acting("colleague"):
            self.dropped.append(time.time())
            job = f"text: Number {len(self.dropped)}.\npriority: 9\n"
            self.spool.drop(f"plain-{len(self.dropped)}.yaml", job)

    def durations_s(self) -> list[float | None]:
        """From drop to publication (the folder's ctime), in seconds; None for jobs that are not published."""
        return [self._duration_s(number, dropped) for number, dropped in enumerate(self.dropped, start=1)]

    def _duration_s(self, number: int, dropped: float) -> float | None:
        try:
            return (self.spool.outbox / f"plain-{number}").stat().st_ctime_ns / 1e9 - dropped
        except FileNotFoundError:
            return None

    def published(self) -> bool:
        return None not in self.durations_s()


def under_attack(engine: str, drops: int, patience_s: float) -> dict[str, Any]:
    """Drop all hostile files, then plain jobs; measure until all good jobs are published."""
    with fresh(engine) as spool, contextlib.ExitStack() as scripts:
        staged = stage(spool)
        watchdog, memory, jobs = Watchdog(spool.folder / "notify"), Memory(), PlainJobs(spool)
        scripts.enter_context(watchdog.listening())
        process = spool.start(**watchdog.environment)
        start = time.time()
        drop_all(spool, staged, scripts)
        for _ in range(drops):
            due = time.monotonic() + 1.0
            jobs.drop()
            while time.monotonic() < due:
                memory.update(process.pid)
                pass_time(0.02)
        with contextlib.suppress(AssertionError):  # late and lost jobs are in the report
            until(lambda: memory.update(process.pid) and jobs.published() and all_good(spool), "all", patience_s)
        blocked, alive = watchdog.longest_s(start, time.time()), process.poll() is None
        memory.update(process.pid)
        state = spool.status().get("state")
        counts = Counter(Path(name).name.partition("~")[0] for name in spool.results())
        durations = jobs.durations_s()
        twice = [name for name, count in counts.items() if name.startswith("plain") and count > 1]
        process.kill()
    published = [seconds for seconds in durations if seconds is not None]
    return {
        "loop_away_s": round(blocked, 3),
        "plain_job_s": {"jobs": drops, "median": _of(statistics.median, published), "max": _of(max, published)},
        "not_published": len(durations) - len(published),
        "published_twice": len(twice),
        "good_jobs_of_the_set_published": sum(name.startswith("plain_documents-") for name in counts),
        "daemon_mb": round(memory.daemon / 1e6, 1),
        "children_mb": {name: round(peak / 1e6, 1) for name, peak in memory.children.most_common(8)},
        "alive_at_the_end": alive,
        "state_at_the_end": state,
    }


def _of(measure: Any, values: list[float]) -> float | None:
    return round(measure(values), 3) if values else None


def all_good(spool: Spool) -> bool:
    """Whether the good jobs among the hostile files are published."""
    folder = spool.outbox / "plain_documents"
    return folder.is_dir() and len(os.listdir(folder)) >= hostile.PLAIN_DOCUMENTS


def stage(spool: Spool) -> Path:
    """Write the hostile files, as the stranger, into a folder next to the inbox, to be dropped by renames."""
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
        stage_as_root(spool, staged)
    return staged


def stage_as_root(spool: Spool, staged: Path) -> None:
    """Write the hostile files that only root can make."""
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


def drop_all(spool: Spool, staged: Path, scripts: contextlib.ExitStack) -> None:
    """Drop all hostile files at once, then start the scripts that exchange files."""
    with acting("stranger"):
        for folder in sorted(staged.iterdir()):
            folder.rename(spool.inbox / folder.name)
        (spool.inbox / "other").symlink_to("/etc")
    scripts.enter_context(
        running(ROOT / "tests/exchanging.py", spool.inbox / "moving", spool.inbox / "other", "passwd", "1000000000")
    )
    scripts.enter_context(shut_after_claim(spool.inbox / "shut"))


@contextlib.contextmanager
def shut_after_claim(folder: Path) -> Iterator[None]:
    """Remove all permissions of a folder once its job is claimed."""
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
    """Whether each figure is within its bound."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="instant", help="instant measures only the spool, espeak a real engine")
    parser.add_argument("--drops", type=int, default=90, help="number of plain jobs, one per second")
    parser.add_argument("--patience", type=float, default=300.0, help="longest wait for the last job, in seconds")
    parser.add_argument("--output", type=Path, default=RESULTS / "hostile.json")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "engine": arguments.engine, "several_users": SEVERAL_USERS}
    report["method"] = check_method(arguments.engine)
    report |= under_attack(arguments.engine, arguments.drops, arguments.patience)
    report |= {"bounds": BOUNDS, "within": within(report)}
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if all(report["within"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
