"""Processes of `voicespool` for tests, started quickly: forked from a process that has imported its modules already.

A test run starts the command more than a thousand times, and most of the time it takes is the interpreter importing the
same modules. A process forked from here has its own pid, files, environment and working folder, as one that the shell
starts. Where a test depends on how the interpreter itself starts (another Python, PYTHONPATH, a prefix, a mount or a
user of the test's own), `spooling` starts it the usual way.

    python starting.py DESCRIPTOR    what the tests start once: it forks on request
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

MAX_MESSAGE_BYTES = 1 << 20
PRELOADED = (
    "rich.live", "watcher.cli.main", "watcher.cli.commands", "watcher.cli.commands_jobs", "watcher.cli.commands_models",
    "watcher.cli.progress", "watcher.client.cancel", "watcher.client.follow", "watcher.client.submit",
    "watcher.client.validate", "watcher.daemon.loop", "watcher.models.checkpoints",
)  # fmt: skip
"""What commands import while they run."""


class Started:
    """A process that the server has forked; used like a `subprocess.Popen`."""

    def __init__(self, server: _Server, pid: int, args: Sequence[str]) -> None:
        self.pid, self.args, self._server = pid, list(args), server
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.exit_code(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            self._server.wait(left_s)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Server:
    """The tests' end: asks for processes, and is told how they end."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], env=environment, pass_fds=[theirs.fileno()]
            )
        self._socket, self._lock = ours, threading.Lock()
        self._codes: dict[int, int] = {}
        self.environment = dict(environment)
        self.mounts = os.readlink("/proc/self/ns/mnt")

    def start(self, args: Sequence[str], *, env: Mapping[str, str], cwd: Path, fds: list[int]) -> int:
        request = {"args": list(args), "env": dict(env), "cwd": str(cwd), "umask": _umask()}
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
            while True:
                answer = self._receive()
                if "started" in answer:
                    return int(answer["started"])
                self._note(answer)

    def exit_code(self, pid: int) -> int | None:
        with self._lock:
            while self._is_readable(0.0):
                self._note(self._receive())
            return self._codes.pop(pid, None)

    def wait(self, seconds: float | None) -> None:
        """Until something has ended, or another thread has read of it."""
        self._is_readable(0.05 if seconds is None else min(seconds, 0.05))

    def _is_readable(self, seconds: float) -> bool:
        poll = select.poll()  # not select(): a test may have more than a thousand files open
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _receive(self) -> dict[str, int]:
        data = self._socket.recv(MAX_MESSAGE_BYTES)
        assert data, "the server that starts commands for the tests has ended"
        answer: dict[str, int] = json.loads(data)
        return answer

    def _note(self, answer: Mapping[str, int]) -> None:
        self._codes[answer["pid"]] = answer["code"]

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def _umask() -> int:
    """That of this process, read without setting it: other threads would make files with it meanwhile."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)


@cache
def _server(pid: int) -> _Server:
    """One for each test process."""
    from tests.spooling import environment

    return _Server(environment())


def end() -> None:
    """At the end of the tests."""
    if _server.cache_info().currsize:
        _server(os.getpid()).close()


def can_start(python: str, prefix: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a process started the usual way would be the same."""
    if python != sys.executable or prefix or os.geteuid() != os.getuid():
        return False
    server = _server(os.getpid())
    same = _for_python(env) == _for_python(server.environment)
    return same and os.readlink("/proc/self/ns/mnt") == server.mounts


def _for_python(env: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in env.items() if key.startswith("PYTHON")}


def start(args: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: IO[Any], errors: IO[Any]) -> Started:
    """Start `voicespool ARGS` in a session of its own, without input."""
    with open(os.devnull, "rb") as nothing:
        fds = [nothing.fileno(), output.fileno(), errors.fileno()]
        server = _server(os.getpid())
        return Started(server, server.start(args, env=env, cwd=cwd, fds=fds), args)


# --- the server ------------------------------------------------------------------------------------------------------


def _serve(descriptor: int) -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    wake, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(fileno=descriptor) as tests:
        while True:
            ready, _, _ = select.select([tests.fileno(), wake], [], [])
            if wake in ready:
                os.read(wake, 4096)
                _report_ended(tests)
            if tests.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(tests, MAX_MESSAGE_BYTES, 3)
                if not data:
                    return
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for fd in (tests.detach(), wake, told):
                        os.close(fd)
                    _become(json.loads(data), fds)
                for fd in fds:
                    os.close(fd)
                tests.send(json.dumps({"started": pid}).encode())


def _report_ended(tests: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(ended[1])
            tests.send(json.dumps({"pid": ended[0], "code": code}).encode())


def _become(request: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Be a process of the command; never returns."""
    code = 70
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
            os.close(fd)
        os.umask(request["umask"])
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = ["voicespool", *request["args"]]
        for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
            stream = open(fd, mode, encoding="utf-8", errors="backslashreplace" if fd == 2 else None, closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        from watcher.cli.main import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
