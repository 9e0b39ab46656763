"""Two users who are not root: the daemon's, and a member of its group. Only root can act as both."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.spooling import PLUGINS, ROOT, Spool, environment, spooling


@dataclass(frozen=True)
class User:
    """User and group numbers, which need no names on this machine."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Words before a command that this user runs."""
        groups = f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups"
        return ("setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", groups, "--inh-caps=-all", "--")

    def run(self, *command: object, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, with the usual umask."""
        return subprocess.run(
            [*self.words, *map(str, command)], env=environment(**everybodys_python().variables, **extra),
            capture_output=True, text=True, timeout=180, check=False, umask=0o022, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def voicespool(self, spool: Spool, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run `voicespool` as this user."""
        python = everybodys_python().path
        return self.run(python, "-m", "watcher", "--config", spool.config_file, *arguments)


DAEMON = User(61001, 61001)
MEMBER = User(61002, 61002, (61001,))
"""Of the daemon's group."""
STRANGER = User(61003, 61003)


@dataclass(frozen=True)
class Python:
    """An interpreter that every user may run, and the variables with which it finds this one's packages."""

    path: str
    variables: Mapping[str, str]


def everybodys_python() -> Python:
    """Skips if there is none: the tests' interpreter may be in a folder that only root may read."""
    if os.geteuid() != 0:
        pytest.skip("needs root, who can be two users")
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, to become another user")
    found = _found_python()
    if found is None:
        pytest.skip("needs a Python of this version, and this checkout, where all users may read them")
    return found


@functools.cache
def _found_python() -> Python | None:
    packages = os.pathsep.join([str(ROOT), str(PLUGINS), *(path for path in sys.path if path.endswith("-packages"))])
    common = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin") or ""
    for python in (Python(sys.executable, {}), Python(common, {"PYTHONPATH": packages})):
        # A shell in between, as the daemon is for its worker: the first program keeps some of root's rights.
        words = ["sh", "-c", '"$0" -c "import watcher.cli.main, yaml, numpy"', python.path]
        env = environment(**python.variables)
        tried = python.path and subprocess.run([*STRANGER.words, *words], env=env, capture_output=True, check=False)
        if tried and tried.returncode == 0:
            return python
    return None


@contextlib.contextmanager
def shared_spool(inbox_mode: int = 0o3770) -> Iterator[Spool]:
    """A spool that runs as DAEMON, in a folder that all users can reach. The daemon's group may write to its inbox.

    Its state folder is in the inbox, where strangers can attack it most.
    """
    python = everybodys_python()
    with tempfile.TemporaryDirectory(prefix="voicespool-test-", dir="/tmp") as name, spooling(Path(name)) as spool:
        spool.folder.chmod(0o755)
        spool.prefix, spool.python, spool.variables = DAEMON.words, python.path, dict(python.variables)
        spool.variables |= {"VOICESPOOL_CACHE": str(spool.folder / "cache"), "HOME": str(spool.folder)}
        (spool.folder / "cache").mkdir()
        os.chown(spool.folder / "cache", DAEMON.uid, DAEMON.gid)
        for folder, mode in ((spool.inbox, inbox_mode), (spool.outbox, 0o2755)):
            folder.mkdir(exist_ok=True)
            os.chown(folder, DAEMON.uid, DAEMON.gid)
            folder.chmod(mode)
        spool.write_config()
        yield spool
