"""Starts, kills and reaps one worker process with everything that it has started.

The process leads its own session and process group. Its pid can't be reused before it is reaped, so the group is killed
before that, and again after its leader is dead: a signal never reaches a process of somebody else.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from jobs.errors import WorkerUnready, holding

ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.002


class WorkerProcess:
    """A running worker. Attributes `channel`, `stdout_fd`, `stderr_fd` are non-blocking.

    Start it from the main thread: the kernel kills it when the thread that started it ends.

    Args:
        python: The interpreter that runs it.
        inherited: Open descriptors that it inherits under the same numbers.

    Raises:
        WorkerUnready: A process can't be started now. Everything opened for it is closed.
    """

    def __init__(self, python: str, inherited: tuple[int, ...] = ()) -> None:
        refused = holding("the worker can't be started", WorkerUnready)
        with refused, contextlib.ExitStack() as undo, contextlib.ExitStack() as for_the_worker:
            self.channel, theirs = socket.socketpair()
            undo.callback(self.channel.close)
            for_the_worker.callback(theirs.close)
            life_reader, self._life_fd = _pipe(for_the_worker, undo)
            # Popen's own pipes would stay open if the second one failed.
            self.stdout_fd, stdout = _pipe(undo, for_the_worker)
            self.stderr_fd, stderr = _pipe(undo, for_the_worker)
            for descriptor in (self.channel.fileno(), self.stdout_fd, self.stderr_fd):
                os.set_blocking(descriptor, False)
            arguments = map(str, (theirs.fileno(), life_reader, os.getpid()))
            # -P: strangers may write to the current folder, so nothing is imported from it.
            self._popen = subprocess.Popen(
                [python, "-P", "-X", "no_debug_ranges", "-m", "watcher.executors.local.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(theirs.fileno(), life_reader, *inherited),
                start_new_session=True,
                umask=0o077,
                env=environment_of(os.environ),
            )
            undo.pop_all()
        self.pid = self._popen.pid
        self.death_fd = _death_fd(self.pid)

    @property
    def exited(self) -> bool:
        """Whether it is dead, reaped or not."""
        if self._popen.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal's number; None before `kill`."""
        return self._popen.returncode

    def wait(self, timeout_s: float) -> bool:
        """Wait for its death; True when it is dead."""
        if self.death_fd is not None and not self.exited:
            poll = select.poll()
            poll.register(self.death_fd, select.POLLIN)
            poll.poll(max(0.0, timeout_s) * 1000)
        return _eventually(lambda: self.exited, timeout_s if self.death_fd is None else 0.0)

    def kill(self, timeout_s: float) -> bool:
        """Kill the group, reap it, and wait until its last process is gone; True when it is."""
        deadline_s = time.monotonic() + timeout_s
        if self._popen.returncode is None:
            self._signal_group()
            if not self.wait(timeout_s):
                return False
            self._signal_group()  # for processes forked meanwhile; until the leader is reaped, the number is ours
            self._popen.wait()
        return _eventually(lambda: _group_is_gone(self.pid), deadline_s - time.monotonic())

    def close(self) -> None:
        """Close our ends of its socket and pipes. Call it once, after `kill`."""
        self.channel.close()
        for descriptor in (self.stdout_fd, self.stderr_fd, self._life_fd):
            os.close(descriptor)
        if self.death_fd is not None:
            os.close(self.death_fd)
            self.death_fd = None  # `kill` may be called again; it polls then

    def _signal_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def _pipe(for_reader: contextlib.ExitStack, for_writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe; each stack closes one end of it."""
    reader, writer = os.pipe()
    for_reader.callback(os.close, reader)
    for_writer.callback(os.close, writer)
    return reader, writer


def environment_of(ours: Mapping[str, str]) -> dict[str, str]:
    """Our environment for a child: unbuffered UTF-8 output, and without the service manager's variables."""
    private = {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"}
    environment = {key: value for key, value in ours.items() if key not in private}
    environment |= {
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }
    if ROOT.name not in {"site-packages", "dist-packages"}:  # a checkout
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [ours.get("PYTHONPATH"), str(ROOT)]))
    return environment


def _death_fd(pid: int) -> int | None:
    """A descriptor that is readable once the process is dead; None without support by the kernel or sandbox."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _eventually(is_true: Callable[[], bool], timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def _group_is_gone(group: int) -> bool:
    """Whether no process of the group is alive. Reaps those that became our children (we may be process 1)."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return not any(_is_alive_in(group, stat) for stat in Path("/proc").glob("[0-9]*/stat"))


def _is_alive_in(group: int, stat: Path) -> bool:
    """Whether a process is in the group and not dead. `killpg` also finds dead ones that init has not reaped."""
    try:
        state, _, its_group = stat.read_bytes().rpartition(b") ")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(its_group) == group and state not in {b"Z", b"X"}
