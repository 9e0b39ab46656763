"""A real spool for tests: its own folder, the real command as a process, and waiting for conditions."""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tests import starting
from tests.starting import Started

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "tests" / "plugins"
PATIENCE_S = 60.0
"""Far longer than anything here takes; reached only when something is broken."""

_nothing_happens = threading.Event()
T = TypeVar("T")
Process = subprocess.Popen[str] | Started


def until(condition: Callable[[], T], what: str | Callable[[], str] = "", patience_s: float = PATIENCE_S) -> T:
    """Wait until a condition is true, and return its value.

    Args:
        what: What is waited for, for the error; a function is called when the wait has failed.

    Raises:
        AssertionError: It was not true within `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        late = time.monotonic() > deadline
        assert not late, f"timed out: {what() if callable(what) else what or condition}"
        _nothing_happens.wait(0.01)
    return value


def below(folder: Path, pattern: str = "*") -> list[Path]:
    """All paths below a folder whose names match. Unlike `Path.rglob`, ignores folders that a daemon removes
    meanwhile.
    """

    def gone(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    walk = os.walk(folder, onerror=gone)
    return [Path(path, name) for path, *names in walk for name in fnmatch.filter(chain(*names), pattern)]


def environment(**extra: str) -> dict[str, str]:
    """The environment of a spool with the test engines, and with the packages on PYTHONPATH."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(PLUGINS), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "default", **extra}


def command(
    *arguments: str, cwd: Path, env: Mapping[str, str], how: Sequence[str] = (sys.executable,)
) -> subprocess.CompletedProcess[str]:
    """Run `voicespool …` to its end.

    Args:
        how: The interpreter, with the words before it.
    """
    if not starting.can_start(how[-1], how[:-1], env):
        return subprocess.run(
            [*how, "-m", "watcher", *arguments], env=env, cwd=cwd, capture_output=True, text=True,
            timeout=PATIENCE_S * 3, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = starting.start(arguments, env=env, cwd=cwd, output=output, errors=errors)
        try:
            code = process.wait(PATIENCE_S * 3)
        finally:
            process.kill()
            output.seek(0)
            errors.seek(0)
            printed = output.read(), errors.read()
    return subprocess.CompletedProcess(["voicespool", *arguments], code, *printed)


@dataclass
class Spool:
    """A spool in `folder` with short quiet times.

    Attributes:
        config: Content of config.yaml, written at each start.
        prefix: Words before the command: a program that runs it with less power.
        python, variables: The interpreter, and variables for its environment.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    process: Process | None = None
    python: str = sys.executable
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        quick = {"quiet_s": 0.2, "network_quiet_s": 0.2, "unparsable_grace_s": 0.6, "companions_s": 1.5, "scan_s": 0.5}
        self.config = {"ready": quick, "defaults": {"engine": "faulty"}} | self.config
        self.inbox.mkdir(parents=True, exist_ok=True)

    @property
    def inbox(self) -> Path:
        return Path(self.config.get("inbox", self.folder / "inbox"))

    @property
    def outbox(self) -> Path:
        return Path(self.config.get("outbox", self.folder / "outbox"))

    @property
    def state(self) -> Path:
        return Path(self.config.get("state_dir", self.inbox / ".voicespool"))

    @property
    def how(self) -> tuple[str, ...]:
        """The words before `-m watcher`."""
        return (*self.prefix, self.python)

    @property
    def config_file(self) -> Path:
        return self.folder / "config.yaml"

    # --- jobs ----------------------------------------------------------------------------------------------------

    def drop(self, name: str, text: str | bytes = "text: Good morning.\n") -> Path:
        """Drop a file as a careful program does: write it elsewhere, then rename it once."""
        target = self.inbox / name
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.parent / f".{os.getpid()}-{threading.get_ident()}.scratch"
        scratch.write_bytes(text.encode() if isinstance(text, str) else text)
        os.rename(scratch, target)
        return target

    def result(self, name: str) -> Path:
        """Wait for a result folder."""
        folder = self.outbox / name
        until(folder.is_dir, lambda: f"result {name}; results are {self.results()}, log:\n{self.log()[-3000:]}")
        return folder

    def manifest(self, name: str) -> dict[str, Any]:
        """Wait for a result and return its manifest."""
        value = json.loads((self.result(name) / "manifest.json").read_bytes())
        assert isinstance(value, dict)
        return value

    def results(self) -> list[str]:
        """Paths of all result folders in the outbox."""
        paths = (path.parent.relative_to(self.outbox) for path in below(self.outbox, "manifest.json"))
        return sorted(str(path) for path in paths if path.parts[0] != ".voicespool")

    def job_files(self) -> list[Path]:
        """Job files in the inbox, of claims as well, except emptied ones in spare folders."""
        return [path for path in below(self.inbox, "*.yaml") if path.parents[1] != self.state / "spare"]

    def claims(self) -> list[str]:
        claimed = self.state / "claimed"
        return sorted(os.listdir(claimed)) if claimed.is_dir() else []

    # --- the daemon ------------------------------------------------------------------------------------------------

    def write_config(self) -> None:
        limits = {"retry_delays_s": [0]} | self.config.get("limits", {})
        self.config_file.write_text(json.dumps(self.config | {"limits": limits}, default=str, indent=1))

    def command(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run `voicespool …` and wait for its end."""
        self.write_config()
        words = ("--config", str(self.config_file), *arguments)
        return command(*words, cwd=self.folder, env=environment(**self.variables | extra), how=self.how)

    def once(self, **extra: str) -> subprocess.CompletedProcess[str]:
        """`run --once`."""
        return self.command("run", "--once", **extra)

    def start(self, *arguments: str, wait: bool = True, **extra: str) -> Process:
        """Start the daemon; by default wait until it has swept its inbox, has a job, or holds."""
        self.write_config()
        words, env = ["--config", str(self.config_file), "run", *arguments], environment(**self.variables | extra)
        with (self.folder / "log").open("a") as log:
            if starting.can_start(self.python, self.prefix, env):
                self.process = starting.start(words, env=env, cwd=self.folder, output=log, errors=log)
            else:
                self.process = subprocess.Popen(
                    [*self.how, "-m", "watcher", *words], env=env, cwd=self.folder, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, text=True, start_new_session=True,
                )  # fmt: skip
        if wait:
            process = self.process
            until(lambda: self._is_up(process), "daemon starts")
            assert process.poll() is None, self.log()
        return self.process

    def _is_up(self, process: Process) -> bool:
        status = self.status()
        return process.poll() is not None or (status.get("pid") == process.pid and status["state"] != "starting")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end. Returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    def status(self) -> dict[str, Any]:
        """status.json; {} when there is none."""
        try:
            value = json.loads((self.state / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        assert isinstance(value, dict)
        return value

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def lines(self, action: str) -> list[dict[str, Any]]:
        """Log lines of one action."""
        whole = self.log().rpartition("\n")[0].splitlines()  # the last line may still be written
        lines = [json.loads(line) for line in whole if line.startswith("{")]
        return [line for line in lines if line.get("action") == action]

    def worker_pid(self) -> int:
        """Wait for a worker and return the process id of the latest."""
        return int(until(lambda: self.lines("worker_started"), "a worker starts")[-1]["pid"])


@contextmanager
def spooling(folder: Path, **config: Any) -> Iterator[Spool]:
    """A spool whose processes are killed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    spool = Spool(folder, config)
    try:
        yield spool
    finally:
        if spool.process is not None and spool.process.poll() is None:
            spool.process.kill()
            spool.process.wait(PATIENCE_S)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
