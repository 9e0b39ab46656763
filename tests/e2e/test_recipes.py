"""The recipes in docs/OPERATIONS.md, executed, and then used by the people that they are for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recipes import recipe
from tests.spooling import environment
from tests.two_users import DAEMON, MEMBER, STRANGER, User, everybodys_python

USER = re.compile(r"(?<![\w/.-])voicespool(?![\w/-])")


@pytest.fixture
def srv() -> Iterator[Path]:
    """Stands for /srv/voicespool."""
    everybodys_python()
    with tempfile.TemporaryDirectory(prefix="vs-recipe-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "spool"


def voicespool(user: User | None, srv: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    python = everybodys_python()
    variables = environment(**{**python.variables, "HOME": str(srv), "VOICESPOOL_CACHE": str(srv / "cache")})
    return subprocess.run(
        [*(user.words if user else ()), python.path, "-m", "watcher", *map(str, arguments)],
        env=variables, capture_output=True, text=True, timeout=180, check=False, umask=0o022,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def follow(lines: list[str], srv: Path, user: User | None = None) -> None:
    """Execute a recipe's lines, with numbers for names; users are not made, the numbers need none."""
    for line in lines:
        if line.startswith(("useradd ", "usermod ")):
            continue
        words = shlex.split(line.replace("/srv/voicespool", str(srv)))
        if words[0] == "voicespool":
            done = voicespool(user, srv, *words[1:])
        else:
            command = [USER.sub(str(DAEMON.uid), word) for word in words]
            done = (user or User(0, 0)).run(*command)
        assert done.returncode == 0, (line, done.stderr)


def configured(srv: Path) -> tuple[str, str]:
    return "--config", str(srv / "config.yaml")


def test_one_user(srv: Path) -> None:
    """Drops, runs and reads; nobody else even sees that there is an inbox."""
    os.chown(srv.parent, DAEMON.uid, DAEMON.gid)
    follow(recipe("one-user"), srv, DAEMON)
    assert voicespool(DAEMON, srv, *configured(srv), "submit", "--text", "Hello.", "--name", "a").returncode == 0
    done = voicespool(DAEMON, srv, *configured(srv), "run", "--once")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert (srv / "outbox/a/a.wav").exists()
    assert MEMBER.run("ls", srv / "inbox").returncode != 0


def test_the_group_recipe_makes_a_user_before_it_names_it() -> None:
    """So that each line can be executed as it stands there, from top to bottom."""
    lines = recipe("group")
    assert lines[0].startswith("useradd ")
    assert any(USER.search(line) for line in lines[1:])


@pytest.mark.parametrize("acl", [True, False], ids=["with ACLs", "without ACLs"])
def test_a_group(srv: Path, acl: bool) -> None:
    """Members drop into folders that they make, by `submit` and by hand with the usual umask 022; the daemon takes
    all, and members read the results and the status. They can't rename or read the state, nor each other's files away.
    """
    lines = recipe("group")
    if not acl:
        lines = [line for line in lines if not line.startswith("setfacl ")]
    elif shutil.which("setfacl") is None:
        pytest.skip("setfacl is not installed")
    follow(lines, srv)
    (srv / "cache").mkdir()
    os.chown(srv / "cache", DAEMON.uid, DAEMON.gid)
    state, inbox = srv / ".voicespool-state", srv / "inbox"

    submitted = voicespool(MEMBER, srv, *configured(srv), "submit", "--text", "Hello.", "--name", "team/a")
    assert submitted.returncode == 0, submitted.stderr
    expected = ["team/a"]
    if acl:  # what other clients make is only right by the ACL
        by_hand = "mkdir -p hand/made && echo 'text: Hi.' > .b && mv .b hand/made/b.yaml"
        assert MEMBER.run("sh", "-c", f"cd {inbox} && {by_hand}").returncode == 0
        expected.append("hand/made/b")
    done = subprocess.run(
        [*DAEMON.words, everybodys_python().path, "-m", "watcher", *configured(srv), "run", "--once"],
        env=environment(**everybodys_python().variables, HOME=str(srv), VOICESPOOL_CACHE=str(srv / "cache")),
        capture_output=True, text=True, timeout=180, check=False, umask=0o027, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"warning"' not in done.stderr
    for name in expected:
        read = MEMBER.run("cat", srv / "outbox" / name / "manifest.json")
        assert '"status": "done"' in read.stdout, (name, read.stderr)
    told = voicespool(MEMBER, srv, *configured(srv), "status")
    assert told.returncode == 0, told.stderr
    assert "team/a" in told.stdout

    for command in (f"mv {state} {srv}/mine", f"mv {state} {inbox}/mine", f"ls {state}", f"cat {state}/lock",
                    f"flock --nonblock {state}/lock true", f"touch {state}/x"):  # fmt: skip
        assert MEMBER.run("sh", "-c", command).returncode != 0, command
    theirs = inbox / "theirs.txt"
    theirs.touch()
    os.chown(theirs, STRANGER.uid, DAEMON.gid)
    assert MEMBER.run("rm", "-f", theirs).returncode != 0
