"""Users who may write into the inbox can't change the spool's state: two users, real daemons."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spooling import Spool, until
from tests.two_users import DAEMON, MEMBER, STRANGER, User, shared_spool

TREASURE = "precious"


@pytest.fixture
def shared() -> Iterator[Spool]:
    """A spool whose inbox has the recommended mode."""
    with shared_spool() as spool:
        yield spool


@pytest.fixture
def writable() -> Iterator[Spool]:
    """A spool whose inbox is not sticky."""
    with shared_spool(0o2770) as spool:
        yield spool


def ran_once(spool: Spool) -> None:
    spool.drop("first.yaml")
    done = spool.once()
    assert done.returncode == 0, done.stderr


def picture(folder: Path) -> dict[str, tuple[int, ...]]:
    """Mode, inode, owner, size and time of the last change of everything below a folder."""
    found = {str(path): os.lstat(path) for path in (folder, *folder.rglob("*"))}
    return {path: (*status[:7], status.st_ctime_ns) for path, status in found.items()}


def treasury(spool: Spool, owner: User) -> Path:
    """Another folder that the daemon could empty."""
    folder = spool.folder / "elsewhere"
    folder.mkdir()
    (folder / "diary").write_text(TREASURE)
    for path in (folder, folder / "diary"):
        os.chown(path, owner.uid, owner.gid)
        path.chmod(0o700)
    return folder


def script(spool: Spool, body: str) -> str:
    """Shell commands in the inbox."""
    return f'cd "{spool.inbox}" && {body}'


# --- the folder exchanged ------------------------------------------------------------------------------------------

EXCHANGE = """
mv .voicespool .mine && mkdir -m 755 .voicespool && echo 1 > .voicespool/format && echo "$ID" > .voicespool/id &&
touch .voicespool/lock && ln -s "$TREASURY" .voicespool/recordings && ln -s "$TREASURY" .voicespool/trash
"""


def exchange(spool: Spool, attacker: User) -> int:
    """Rename the state folder, and put another one with links to other folders in its place."""
    inbox_id = (spool.state / "id").read_text().strip()
    done = attacker.run(
        "sh", "-c", script(spool, EXCHANGE), ID=inbox_id, TREASURY=str(treasury(spool, DAEMON))
    )  # fmt: skip
    return done.returncode


def test_in_a_sticky_inbox_a_member_of_the_group_can_not_rename_the_state(shared: Spool) -> None:
    """3770: they can only drop jobs; the state folder stays, and the next job runs."""
    ran_once(shared)
    before = os.lstat(shared.state).st_ino
    assert exchange(shared, MEMBER) != 0
    assert os.lstat(shared.state).st_ino == before
    assert MEMBER.run("sh", "-c", script(shared, "echo 'text: Hi.' > .a && mv .a second.yaml")).returncode == 0
    assert shared.once().returncode == 0
    assert shared.results() == ["first", "second"]


def test_a_state_folder_of_somebody_else_refuses_the_start_and_nothing_is_touched(writable: Spool) -> None:
    """2770: they can replace it. The daemon exits with 3, and neither their folder nor the targets of its links
    are changed.
    """
    ran_once(writable)
    assert exchange(writable, MEMBER) == 0
    before = picture(writable.inbox) | picture(writable.folder / "elsewhere")
    for arguments in (("run", "--once"), ("run",)):
        refused = writable.command(*arguments)
        assert refused.returncode == 3
        assert f"state_dir: {writable.state} belongs to {MEMBER.uid}, and the spool runs as {DAEMON.uid}" in (
            refused.stderr
        )
        assert "/proc/" not in refused.stderr
    assert picture(writable.inbox) | picture(writable.folder / "elsewhere") == before
    assert (writable.folder / "elsewhere" / "diary").read_text() == TREASURE


def test_a_state_folder_that_is_exchanged_under_a_running_daemon_is_a_hold(writable: Spool) -> None:
    """The daemon names the folder's owner, writes nothing into it, and continues when its own is back."""
    writable.start()
    writable.drop("first.yaml")
    writable.result("first")
    own = writable.inbox / ".mine"
    assert exchange(writable, MEMBER) == 0
    before = picture(writable.state) | picture(writable.folder / "elsewhere")
    sentence = f"belongs to {MEMBER.uid}"
    until(lambda: any(sentence in line["reason"] for line in writable.lines("hold")), "the hold names the cause")
    writable.drop("second.yaml")
    assert picture(writable.state) | picture(writable.folder / "elsewhere") == before
    shutil.rmtree(writable.state)
    own.rename(writable.state)
    assert writable.manifest("second")["status"] == "done"
    assert writable.stop() == 0
    assert "/proc/self/fd" not in writable.log()


def test_a_job_that_runs_while_the_state_is_exchanged_touches_nothing_of_the_other_one(writable: Spool) -> None:
    """The running job is postponed; nothing is written into the folder that was put in place."""
    writable.start()
    writable.drop("long.yaml", "text: One. [pause 100ms] Two.\nsettings: {fault: hang}\n")
    until(lambda: writable.status().get("running"), "the job runs")
    assert exchange(writable, MEMBER) == 0
    until(lambda: writable.lines("hold"), "the daemon notices")
    assert sorted(path.name for path in writable.state.iterdir()) == ["format", "id", "lock", "recordings", "trash"]
    assert os.listdir(writable.folder / "elsewhere") == ["diary"]
    writable.stop(signal.SIGKILL)


# --- things in it --------------------------------------------------------------------------------------------------


def test_links_and_what_is_foreign_in_the_state_refuse_the_start(shared: Spool) -> None:
    """The error names the entry; nothing is changed, here or in a link's target. The doctor reports the same.

    `tests/unit/jobs/spool/test_state.py` has every kind.
    """
    ran_once(shared)
    goal = treasury(shared, DAEMON)
    away = shared.folder / "away"
    for name in ("trash", "recordings", "lock", "status.json"):
        (shared.state / name).rename(away)
        (shared.state / name).symlink_to(goal if away.is_dir() else goal / "diary")
        refuses(shared, name, "is a link or a special file")
        (shared.state / name).unlink()
        away.rename(shared.state / name)
    os.chown(shared.state / "lock", MEMBER.uid, MEMBER.gid)
    refuses(shared, "lock", f"belongs to {MEMBER.uid}")
    examined = shared.command("doctor")
    assert examined.returncode == 3
    assert f"{shared.state / 'lock'} belongs to {MEMBER.uid}" in examined.stdout


def refuses(spool: Spool, name: str, sentence: str) -> None:
    before = picture(spool.inbox) | picture(spool.folder / "elsewhere")
    refused = spool.once()
    assert refused.returncode == 3
    assert f"state_dir: {spool.state / name} {sentence}" in refused.stderr
    assert "; nothing was changed" in refused.stderr
    assert picture(spool.inbox) | picture(spool.folder / "elsewhere") == before


def test_a_state_folder_that_is_a_link_refuses_the_start(shared: Spool) -> None:
    """Also when it leads to a folder of the daemon's own."""
    goal = treasury(shared, DAEMON)
    shared.state.symlink_to(goal)
    refused = shared.once()
    assert refused.returncode == 3
    assert f"{shared.state} is not a folder, or is a link" in refused.stderr
    assert os.listdir(goal) == ["diary"]


# --- who may read what ---------------------------------------------------------------------------------------------


def test_nobody_else_can_lock_the_daemon_out(shared: Spool) -> None:
    """Others can't open the lock file, so they can't lock it; a readable one of an older version is closed to them."""
    ran_once(shared)
    (shared.state / "lock").chmod(0o644)
    shared.state.chmod(0o755)
    ran_once_more = shared.once()
    assert ran_once_more.returncode == 0
    flock = MEMBER.run("flock", "--nonblock", shared.state / "lock", "true")
    assert flock.returncode != 0
    assert "Permission denied" in flock.stderr
    with (shared.state / "lock").open("rb") as lock:  # as root: it is free
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_others_read_the_status_and_nothing_else(shared: Spool) -> None:
    """Only status.json; they can't list the folder."""
    ran_once(shared)
    assert shared.state.stat().st_mode & 0o777 == 0o711
    modes = {path.name: path.stat().st_mode & 0o777 for path in shared.state.iterdir()}
    assert modes.pop("status.json") == 0o644
    assert not any(mode & 0o077 for mode in modes.values()), modes
    assert MEMBER.run("ls", shared.state).returncode != 0
    assert MEMBER.run("cat", shared.state / "status.json").returncode == 0


def test_a_member_of_the_group_is_told_whether_a_daemon_runs(shared: Spool) -> None:
    """They can't check the lock: status.json counts while it is fresh, and the message says how certain this is."""
    shared.start()
    running = MEMBER.voicespool(shared, "status")
    assert running.returncode == 0
    assert f"process {shared.status()['pid']} on " in running.stdout
    assert "as far as this user may see" in running.stdout
    shared.stop()
    stopped = MEMBER.voicespool(shared, "status")
    assert "no daemon is running, as far as this user may see; the last one stopped" in stopped.stdout
    shared.start()
    shared.stop(signal.SIGKILL)
    killed = MEMBER.voicespool(shared, "status")
    assert "no daemon is running, as far as this user may see; the last one ended unexpectedly" in killed.stdout


def test_who_may_not_read_the_status_is_told_that_and_not_what_is_not_so(shared: Spool) -> None:
    """A user outside the group gets neither `no daemon has run` nor `the inbox holds no job file`."""
    ran_once(shared)
    for arguments in (("status",), ("status", "--json")):
        told = STRANGER.voicespool(shared, *arguments)
        assert told.returncode == 75
        assert f"status.json can't be read by user {STRANGER.uid}" in told.stderr
        assert "usermod -aG" in told.stderr
        assert told.stdout == ""


def test_an_inbox_whose_state_others_could_rename_is_warned_of(writable: Spool, shared: Spool) -> None:
    """By the doctor and in the log; not if the daemon owns a sticky inbox, or if the state folder is next to it."""
    sentence = f"other users may write in {writable.inbox}, which is not sticky"
    assert sentence in writable.once().stderr
    examined = writable.command("doctor")
    assert sentence in examined.stdout
    assert "state_dir" in examined.stdout
    assert "not writable by other users" in shared.command("doctor").stdout
    assert "sticky" not in shared.once().stderr
    next_to_it = writable.folder / "state"
    next_to_it.mkdir(mode=0o711)
    os.chown(next_to_it, DAEMON.uid, DAEMON.gid)
    writable.config["state_dir"] = str(next_to_it)
    os.chown(writable.folder, DAEMON.uid, DAEMON.gid)
    assert "sticky" not in writable.once().stderr
