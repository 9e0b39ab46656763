"""Runs the spool with fewer rights than this user has: words to put before its command. Skips if not possible."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def as_an_ordinary_user() -> tuple[str, ...]:
    """Let file permissions apply. Root drops its capabilities but still owns the files; other users need no words."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root's powers can't be taken away here: setpriv is missing")
    return WITHOUT_RIGHTS


def with_kernel_limit(limit: str, value: int) -> tuple[str, ...]:
    """In a new user namespace with `/proc/sys/user/LIMIT` at a value."""
    script = f'echo {value} > /proc/sys/user/{limit} && exec "$@"'
    words = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"no user namespace with a {limit} of its own can be made here")
    return words
