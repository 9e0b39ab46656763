"""Hints from the kernel, as they come: real folders, real inotify, no guessing."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.depriving import as_an_ordinary_user
from tests.spooling import until
from watcher.daemon.events import Events, Hints

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's; elsewhere the spool scans")


@pytest.fixture
def events() -> Iterator[Events]:
    made = Events()
    yield made
    made.close()


def heard(events: Events, enough: Callable[[Hints], bool]) -> Hints:
    """Collect hints until there are enough of them."""
    collected = Hints()

    def more() -> bool:
        select.select([events.wake_fd], [], [], 1.0)
        hints = events.take()
        collected.moved |= hints.moved
        collected.touched |= hints.touched
        collected.lost |= hints.lost
        return enough(collected)

    until(more, f"enough of {collected}")
    return collected


def test_a_rename_is_told_from_a_write(events: Events, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (tmp_path / "a").write_text("x")
    events.watch(inbox)
    (tmp_path / "a").rename(inbox / "moved.yaml")
    (inbox / "written.yaml").write_text("x")
    hints = heard(events, lambda hints: str(inbox / "written.yaml") in hints.touched)
    assert hints.moved == {str(inbox / "moved.yaml")}
    assert str(inbox / "moved.yaml") not in hints.touched
    (inbox / "written.yaml").unlink()
    assert heard(events, bool).touched == {str(inbox / "written.yaml")}


def test_nothing_to_say_is_silence(events: Events, tmp_path: Path) -> None:
    events.watch(tmp_path)
    (tmp_path / "a").touch()
    heard(events, lambda hints: bool(hints.touched))
    until(lambda: not events.take() and not select.select([events.wake_fd], [], [], 0)[0], "silence")


@pytest.mark.parametrize("raw", [b"caf\xe9.yaml", b"line\nbreak.yaml", "😀.yaml".encode(), b"x" * 255])
def test_names_come_through_byte_for_byte(events: Events, tmp_path: Path, raw: bytes) -> None:
    events.watch(tmp_path)
    (tmp_path / os.fsdecode(raw)).touch()
    (path,) = heard(events, lambda hints: bool(hints.touched)).touched
    assert os.fsencode(os.path.basename(path)) == raw


def test_a_folder_that_is_removed_and_made_anew_can_be_watched_again(events: Events, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    for _ in range(2):
        inbox.mkdir()
        events.watch(inbox)
        assert events.watches(inbox)
        (inbox / "a").touch()
        heard(events, lambda hints: str(inbox / "a") in hints.touched)
        shutil.rmtree(inbox)
        until(lambda: not events.watches(inbox), "the watch is gone")
        events.take()


def test_a_folder_moved_within_the_tree_is_heard_under_its_new_path_alone(events: Events, tmp_path: Path) -> None:
    """With all below it; and its old path can be watched as any other."""
    (tmp_path / "old/deep").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "old", tmp_path / "old/deep"):
        events.watch(folder)
    (tmp_path / "old").rename(tmp_path / "new")
    heard(events, lambda hints: str(tmp_path / "new") in hints.moved)
    for folder in (tmp_path / "new", tmp_path / "new/deep"):
        events.watch(folder)  # also before the reader has seen that the folder itself moved
    (tmp_path / "later").touch()
    heard(events, lambda hints: str(tmp_path / "later") in hints.touched)  # by now it has
    assert not events.watches(tmp_path / "old/deep")
    for folder in (tmp_path / "new", tmp_path / "new/deep"):
        events.watch(folder)
    (tmp_path / "old/deep").mkdir(parents=True)
    events.watch(tmp_path / "old/deep")
    (tmp_path / "new/deep/a").touch()
    (tmp_path / "old/deep/b").touch()
    hints = heard(events, lambda hints: str(tmp_path / "old/deep/b") in hints.touched)
    assert str(tmp_path / "new/deep/a") in hints.touched
    assert str(tmp_path / "old/deep/a") not in hints.touched
    assert events.trouble == ""


def test_links_files_and_what_is_gone_are_not_watched(events: Events, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("file", "link", "gone"):
        events.watch(tmp_path / name)
        assert not events.watches(tmp_path / name)
    assert events.trouble == "", "that folders come and go is no trouble"


def test_what_is_forgotten_is_not_heard_and_can_be_watched_again(events: Events, tmp_path: Path) -> None:
    events.watch(tmp_path)
    events.forget()
    assert not events.watches(tmp_path)
    events.watch(tmp_path)
    (tmp_path / "a").touch()
    heard(events, lambda hints: str(tmp_path / "a") in hints.touched)


def test_a_burst_that_the_kernel_drops_is_told(events: Events, tmp_path: Path) -> None:
    """The reader is held up until the kernel's queue is full."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"the queue holds {limit} events here; filling it takes too long")
    events.watch(tmp_path)
    names = [str(tmp_path / f"{number}") for number in range(2)]
    with events._lock:
        for number in range(limit // 2 + 3000):  # two events each; the reader takes some before it is held up
            os.close(os.open(names[number % 2], os.O_CREAT | os.O_WRONLY))
            os.unlink(names[number % 2])
    assert heard(events, lambda hints: hints.lost).lost


CAN_NOT_READ = """
import os, sys
from pathlib import Path
from watcher.daemon.events import Events
events = Events()
for name in ("a", "b"):
    events.watch(Path(sys.argv[1], name))
print([events.watches(Path(sys.argv[1], name)) for name in ("a", "b")], events.trouble)
events.close()
"""


def test_folders_that_must_not_be_read_are_not_taken_for_watched(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir(mode=0)
    root = Path(__file__).parents[4]
    words = [*as_an_ordinary_user(), sys.executable, "-W", "error", "-c", CAN_NOT_READ, str(tmp_path)]
    ran = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    for name in ("a", "b"):
        (tmp_path / name).chmod(0o700)
    assert ran.stderr == ""
    assert ran.stdout == (
        "[False, False] not all folders can be watched for events (Permission denied); they are scanned\n"
    )


def test_without_inotify_the_spool_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No instance left for this user."""
    import watchdog.observers.inotify_c as reader

    def none_left() -> int:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(reader.InotifyFD, "_create_inotify_fd", staticmethod(none_left))
    events = Events()
    events.watch(tmp_path)
    events.forget()
    assert not events.watches(tmp_path)
    assert not events.take()
    assert "the inbox is scanned" in events.trouble
    events.close()
