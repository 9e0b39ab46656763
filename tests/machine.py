"""A private machine for recipes for administrators: users, /etc, /srv, /var, /run and a network that no other process
sees and that are removed at the end. Needs root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounting import mount_again, mount_tmpfs, private_mounts, private_network
from tests.recipes import recipe
from tests.spooling import PATIENCE_S, ROOT, environment
from tests.two_users import Python, everybodys_python

OWN_FOLDERS = {"etc", "srv", "var", "run"}
NAMES = {"voicespool", "ana", "ben", "stranger"}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Machine:
    """Runs programs, including `voicespool`.

    Attributes:
        variables: Their environment.
        log: Where the services write.
    """

    variables: dict[str, str]
    log: Path

    def run(self, *words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program to its end, as root, with this text on stdin."""
        return subprocess.run(
            list(map(str, words)), input=stdin, env=self.variables, cwd="/srv", capture_output=True, text=True,
            timeout=PATIENCE_S, check=False, umask=0o022,
        )  # fmt: skip

    def does(self, *words: object, stdin: str = "") -> str:
        """Run a program as root; it must succeed. Returns its output."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def follow(self, name: str) -> None:
        """Execute a recipe as root, exactly as on the page."""
        self.does("sh", "-e", "-c", "\n".join(recipe(name)))

    @contextmanager
    def service(self, *words: str, umask: int = 0o022) -> Iterator[None]:
        """Keep a program running until the end of the block; it must end when it gets a signal."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                words, env=self.variables, cwd="/srv", umask=umask, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield
            process.terminate()
            assert process.wait(PATIENCE_S) in {0, -signal.SIGTERM}, self.log.read_text()[-3000:]
        finally:
            with suppress(ProcessLookupError):  # with all that it started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)


def become(user: str, *powers: str) -> tuple[str, ...]:
    """Words before a command that a user of the machine runs, with all of their groups and these capabilities."""
    kept = "".join(f",+{power}" for power in powers)
    caps = (f"--inh-caps=-all{kept}", f"--ambient-caps=-all{kept}")
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *caps, "--")


@contextmanager
def machine(*programs: str) -> Iterator[Machine]:
    """Use, until the end of the block, a machine with a copy of this one's /etc. Skips if a program is
    missing, if this is not permitted, or if a user already has a name that the recipes use.
    """
    python = everybodys_python()
    needed = (*programs, "ip", "useradd", "usermod", "setfacl")
    missing = [name for name in needed if shutil.which(name, path=SYSTEM_PATH) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    if {ROOT.parts[1], Path(python.path).parts[1]} & OWN_FOLDERS:
        pytest.skip(f"{ROOT} or {python.path} can't be seen on a machine with its own {', '.join(sorted(OWN_FOLDERS))}")
    taken = {entry.pw_name for entry in pwd.getpwall()} & NAMES
    if taken:
        pytest.skip(f"there are users of the names {', '.join(sorted(taken))} here")
    with tempfile.TemporaryDirectory(prefix="vs-machine-", dir="/tmp") as name, private_mounts(), private_network():
        own = Path(name)
        own.chmod(0o755)
        shutil.copytree("/etc", own / "etc", symlinks=True)
        (own / "srv").mkdir()
        mount_again(own / "etc", Path("/etc"))
        mount_again(own / "srv", Path("/srv"))
        for folder in ("/var", "/run"):
            mount_tmpfs(Path(folder), "size=64m,mode=755")
        yield Machine(_with_voicespool(own / "bin", python), own / "log")


def _with_voicespool(folder: Path, python: Python) -> dict[str, str]:
    """An environment with the command `voicespool`."""
    folder.mkdir()
    (folder / "voicespool").write_text(f'#!/bin/sh\nexec {python.path} -m watcher "$@"\n')
    (folder / "voicespool").chmod(0o755)
    return environment(**python.variables, PATH=f"{folder}:{SYSTEM_PATH}", HOME="/srv")
