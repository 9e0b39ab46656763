"""Several users of one spool: the daemon's, and others who may write into the inbox. Needs root.

A test acts as one of them in its own process: a thread's accesses to files are those of its file system user
(`setfsuid(2)`), with that user's rights and none of root's.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.mounting import mount_tmpfs, unmount
from tests.spooling import PATIENCE_S, PLUGINS, ROOT, Spool, spooling

SHARE_GROUP = 64_100
"""Of all who may write into the inbox. The numbers belong to nobody; nothing needs to be known of them."""
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_libc = ctypes.CDLL(None, use_errno=True)


class _SharedUmask:
    """The umask 002, from the first thread that needs it to the last: the umask belongs to the whole process."""

    def __init__(self) -> None:
        self._lock, self._threads, self._before = threading.Lock(), 0, 0

    def enter(self) -> None:
        with self._lock:
            if not self._threads:
                self._before = os.umask(0o002)
            self._threads += 1

    def leave(self) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                os.umask(self._before)


_UMASK = _SharedUmask()


@dataclass(frozen=True, slots=True)
class User:
    """A user in a single group."""

    uid: int
    gid: int = SHARE_GROUP

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command that runs as this user."""
        return ("setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups")

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Access files as this user, in this thread; what is made may be written by the group. No block for anything
        else: modules may be where this user can't read them.
        """
        _UMASK.enter()
        try:
            _libc.setfsgid(self.gid)
            _libc.setfsuid(self.uid)
            assert _libc.setfsuid(-1) == self.uid, "this process can't act as somebody else"
            yield
        finally:
            _libc.setfsuid(os.geteuid())
            _libc.setfsgid(os.getegid())
            _UMASK.leave()

    @contextmanager
    def running(self, script: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Run a Python script as this user, in a new process, which is ended with the block."""
        process = subprocess.Popen(
            [python(), script, *map(str, arguments)],
            user=self.uid, group=self.gid, extra_groups=[], umask=0o002, text=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield process
            assert process.poll() in {None, 0}, f"{script.name} ended by itself"
        finally:
            process.kill()
            process.communicate(timeout=PATIENCE_S)

    def owns(self, *paths: Path) -> None:
        """Make this user and the share's group the owners of files."""
        for path in paths:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


DAEMON, STRANGER, COLLEAGUE = User(64_101), User(64_102), User(64_103)


def with_several_users() -> None:
    """Skip if this process can't act as other users."""
    if os.geteuid() != 0:
        pytest.skip("acting as several users takes root")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing, so no daemon can be started as another user")
    if not python():
        pytest.skip(f"nobody but root may run {sys.executable}, and no other Python {VERSION} is installed")


@cache
def python() -> str:
    """A Python of this version that every user may run: this one or, if it is in root's home, the system's; ""
    for none.
    """
    words = [*STRANGER.prefix, *environment(Path("/")), "sh", "-c", '"$0" -c "import watcher.config.settings"']
    for program in filter(None, (sys.executable, shutil.which(f"python{VERSION}", path=os.defpath))):
        if subprocess.run([*words, program], capture_output=True, check=False).returncode == 0:
            return program
    return ""


def environment(folder: Path) -> tuple[str, ...]:
    """Words before a command that runs with `python`: where our modules, its packages and its own files are."""
    packages = (path for path in sys.path if path.endswith("-packages"))
    path = os.pathsep.join(map(str, (ROOT, PLUGINS, *packages)))
    return ("env", f"PYTHONPATH={path}", f"VOICESPOOL_CACHE={folder / 'cache'}", f"HOME={folder}")


@contextmanager
def share(daemon: User | None = DAEMON, disk: str = "", **config: Any) -> Iterator[Spool]:
    """A spool whose inbox a group shares (3770), as docs/OPERATIONS.md recommends. Its state is next to the inbox.

    Args:
        daemon: The user it runs as; None for root.
        disk: Options for `mount_tmpfs`, to put all of it on a file system in memory.
        config: As `Spool` takes it.
    """
    owner = daemon or User(0)
    with tempfile.TemporaryDirectory() as everybody_may_pass:
        os.chmod(everybody_may_pass, 0o755)
        folder = Path(everybody_may_pass).resolve() / "spool"
        with _mounted(folder, disk), spooling(folder, **{"state_dir": str(folder / "state")} | config) as spool:
            for name, mode in (("inbox", 0o3770), ("outbox", 0o755), ("cache", 0o700), (".", 0o755)):
                (folder / name).mkdir(exist_ok=True)
                owner.owns(folder / name)
                (folder / name).chmod(mode)
            if daemon is not None:
                spool.prefix, spool.python = (*daemon.prefix, *environment(folder)), python()
            yield spool


@contextmanager
def _mounted(folder: Path, disk: str) -> Iterator[None]:
    if disk:
        mount_tmpfs(folder, disk)
    try:
        yield
    finally:
        if disk:
            unmount(folder)


def private_folder(spool: Spool, owner: User, **contents: str) -> Path:
    """A folder next to the inbox with files that only their owner may read: name without `.yaml` -> path."""
    folder = spool.folder / "private"
    folder.mkdir(mode=0o700)
    for name, content in contents.items():
        file = folder / f"{name}.yaml"
        file.write_text(content)
        file.chmod(0o600)
        owner.owns(file)
    owner.owns(folder)
    return folder
