"""Permissions that apply, for an ordinary user or root without capabilities: a refusal holds only what it concerns."""

from __future__ import annotations

import platform
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import refusing
from tests.depriving import as_an_ordinary_user, with_kernel_limit
from tests.spooling import Spool, until


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    """Change permissions temporarily, so that the test can clean up."""
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.fixture
def ordinary(spool: Spool) -> Iterator[Spool]:
    """A spool whose daemon may do only what permissions allow."""
    spool.prefix = as_an_ordinary_user()
    yield spool
    if spool.process is not None:
        spool.stop(signal.SIGKILL)


def reasons(spool: Spool) -> dict[str, str]:
    return {entry["file"]: entry["reason"] for entry in spool.status()["held"]}


def test_a_file_of_mode_000_and_a_read_only_folder_hold_their_files_alone(ordinary: Spool) -> None:
    """Other files are done, the status says why these are held, and they continue when permissions allow it."""
    secret = ordinary.drop("secret.yaml")
    fixed = ordinary.drop("fixed/a.yaml")
    closed = ordinary.drop("closed/a.yaml")
    with mode(fixed.parent, 0o555), mode(closed.parent, 0o000):
        with mode(secret, 0o000):
            ordinary.start()
            ordinary.drop("good.yaml")
            assert ordinary.manifest("good")["status"] == "done"
            until(lambda: len(reasons(ordinary)) == 3, "both files and the folder are held")
            assert reasons(ordinary) == {
                "secret.yaml": f"it can't be read: Permission denied; to free it: chmod a+r {secret}",
                "fixed/a.yaml": "it can't be moved out of its folder: Permission denied; "
                f"to free it: chmod u+rwx {fixed.parent}",
                "closed/": f"it can't be read: Permission denied; to free it: chmod u+rwx {closed.parent}",
            }
            assert ordinary.status()["holds"] == []
            assert {line["file"] for line in ordinary.lines("hold")} == {"secret.yaml", "fixed/a.yaml", "closed/"}
        assert ordinary.manifest("secret")["status"] == "done"
        assert ordinary.results() == ["good", "secret"]
        assert fixed.exists()
    assert ordinary.manifest("fixed/a")["status"] == "done"
    assert ordinary.manifest("closed/a")["status"] == "done"
    assert ordinary.stop() == 0


def test_a_folder_of_the_outbox_that_takes_no_result_delays_its_own_jobs_alone(ordinary: Spool) -> None:
    """Other jobs continue, there is no hold, and the job is published when possible, rendered once."""
    closed = ordinary.outbox / "closed"
    closed.mkdir(parents=True)
    with mode(closed, 0o555):
        ordinary.start()
        ordinary.drop("closed/a.yaml")
        until(lambda: "closed/a" in reasons(ordinary), "the job is deferred")
        assert "Permission denied" in reasons(ordinary)["closed/a"]
        ordinary.drop("good.yaml")
        assert ordinary.manifest("good")["status"] == "done"
        assert ordinary.status()["holds"] == []
    assert ordinary.manifest("closed/a")["status"] == "done"
    assert len(ordinary.lines("render")) == 2
    until(lambda: ordinary.status()["held"] == [], "nothing is held any more")


def test_a_deferred_job_can_be_cancelled_and_a_passing_run_says_that_it_waits(ordinary: Spool) -> None:
    closed = ordinary.outbox / "closed"
    closed.mkdir(parents=True)
    with mode(closed, 0o555):
        ordinary.drop("closed/a.yaml")
        ended = ordinary.once()
        assert ended.returncode == 75
        assert "closed/a: " in ended.stderr
        ordinary.start()
        until(lambda: "closed/a" in reasons(ordinary), "the job is deferred")
        ordinary.drop("closed/a.cancel", "")
        until(lambda: not (ordinary.inbox / "closed/a.cancel").exists(), "the cancellation is handled")
    assert ordinary.manifest("closed/a.cancelled")["status"] == "cancelled"


def test_once_says_by_75_that_a_file_is_held_after_all_others_are_done(ordinary: Spool) -> None:
    secret = ordinary.drop("secret.yaml")
    ordinary.drop("good.yaml")
    with mode(secret, 0o000):
        ended = ordinary.once()
        assert ended.returncode == 75
        assert "secret.yaml: it can't be read: Permission denied" in ended.stderr
        assert ordinary.results() == ["good"]
        assert ordinary.command("run", "--until-idle").returncode == 0
    assert ordinary.once().returncode == 0
    assert ordinary.results() == ["good", "secret"]


def test_a_share_that_refuses_to_set_permissions_and_times_takes_jobs_and_results(spool: Spool) -> None:
    """`submit`, `cp -p` and the publication get EPERM after writing the data; each job is still done."""
    if platform.machine() not in refusing.CALLS:
        pytest.skip("the numbers of this machine's system calls are not known here")
    spool.prefix = refusing.WORDS
    spool.config["results"] = {"mode": "0640"}
    spool.start()
    assert spool.command("submit", "--name", "a", "--text", "Good morning.", "--engine", "faulty").returncode == 0
    (spool.folder / "b.yaml").write_text("text: Good evening.\n")
    copied = subprocess.run(
        [*spool.prefix, "cp", "-p", spool.folder / "b.yaml", spool.inbox], capture_output=True, text=True, check=False
    )
    assert "Operation not permitted" in copied.stderr
    for name in ("a", "b"):
        assert spool.manifest(name)["attempts"] == 1
        assert {path.suffix for path in spool.result(name).iterdir()} == {".wav", ".yaml", ".json"}
    assert spool.stop() == 0
    assert not spool.lines("hold")


def test_an_outbox_that_turns_read_only_is_a_hold_and_ends_by_itself(ordinary: Spool) -> None:
    ordinary.start()
    ordinary.drop("a.yaml")
    ordinary.result("a")
    with mode(ordinary.outbox, 0o555):
        ordinary.drop("b.yaml")
        until(lambda: ordinary.status()["state"] == "hold", "a hold")
        [hold] = ordinary.status()["holds"]
        assert "Permission denied" in hold["reason"]
    assert ordinary.manifest("b")["attempts"] == 1
    assert ordinary.results() == ["a", "b"]
    assert ordinary.stop() == 0


def test_an_inbox_not_writable_at_the_first_start_is_a_hold(ordinary: Spool) -> None:
    """Exit code 75 with `--once`; a daemon waits, and starts to work when it may."""
    ordinary.drop("a.yaml")
    with mode(ordinary.inbox, 0o555):
        ended = ordinary.once()
        assert ended.returncode == 75
        assert "can't be written: Permission denied" in ended.stderr
        assert "inbox: inbox" not in ended.stderr
        ordinary.start(wait=False)
        until(lambda: ordinary.lines("hold"), "a hold")
        assert "can't be written" in ordinary.lines("hold")[0]["reason"]
    assert ordinary.manifest("a")["status"] == "done"
    assert ordinary.stop() == 0


def test_an_inbox_that_can_not_be_listed_any_more_is_a_hold_and_not_an_empty_inbox(ordinary: Spool) -> None:
    ordinary.config["state_dir"] = str(ordinary.folder / "state")
    ordinary.start()
    with mode(ordinary.inbox, 0o333):
        ordinary.drop("a.yaml")
        until(lambda: ordinary.lines("hold"), "a hold")
        assert "Permission denied" in ordinary.lines("hold")[0]["reason"]
        until(lambda: ordinary.status()["state"] == "hold", "the status says so")
    assert ordinary.manifest("a")["status"] == "done"
    assert ordinary.stop() == 0


def test_an_outbox_not_writable_at_the_first_start_is_a_hold(ordinary: Spool) -> None:
    ordinary.drop("a.yaml")
    ordinary.outbox.mkdir()
    with mode(ordinary.outbox, 0o555):
        ended = ordinary.once()
        assert ended.returncode == 75
        assert "Permission denied" in ended.stderr
        ordinary.start(wait=False)
        until(lambda: ordinary.lines("hold"), "a hold")
    assert ordinary.manifest("a")["status"] == "done"
    assert ordinary.stop() == 0


def test_a_folder_that_can_not_be_made_ends_the_start_with_3(ordinary: Spool) -> None:
    closed = ordinary.folder / "closed"
    closed.mkdir()
    ordinary.config["outbox"] = str(closed / "outbox")
    with mode(closed, 0o555):
        ended = ordinary.once()
    assert ended.returncode == 3
    assert "outbox" in ended.stderr
    assert "can't be created: Permission denied" in ended.stderr


# No inotify.


@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_without_inotify_everything_is_found_by_the_scan(spool: Spool, limit: str) -> None:
    """Without watches, or without inotify, files and new folders are still found, only later."""
    spool.prefix = with_kernel_limit(limit, 0)
    spool.start()
    spool.drop("a.yaml")
    spool.drop("new/folder/b.yaml")
    (spool.inbox / "c.yaml").write_text("text: Written in place.\n")
    assert spool.manifest("a")["status"] == "done"
    assert spool.manifest("new/folder/b")["status"] == "done"
    assert spool.manifest("c")["status"] == "done"
    assert spool.stop() == 0
