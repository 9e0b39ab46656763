"""The state folder: only the spool's own is opened, and what is refused is not touched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from files.printable import real_paths
from jobs.errors import ConfigError
from jobs.spool.state import State, check

NOBODY = 65534


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder as a version before this one made it, and something precious next to it."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    for name in ("claimed", "recordings", "trash"):
        (folder / name).mkdir(mode=0o700)
    for name in ("id", "format", "lock", "status.json", "outbox.json"):
        (folder / name).write_text("{}")
        (folder / name).chmod(0o644)
    (tmp_path / "treasury").mkdir()
    (tmp_path / "treasury" / "diary").write_text("precious")
    return folder


def link(path: Path) -> None:
    treasury = path.parents[1] / "treasury"
    is_folder = path.is_dir()
    path.rename(path.parents[1] / "away")
    path.symlink_to(treasury if is_folder else treasury / "diary")


def hard_link(path: Path) -> None:
    path.unlink()
    os.link(path.parents[1] / "treasury" / "diary", path)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def foreign(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, NOBODY, -1)


def for_the_group(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o020)


def for_all(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def picture(folder: Path) -> dict[str, os.stat_result]:
    return {str(path): os.lstat(path) for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (link, "is a link or a special file"),
        (foreign, "belongs to "),
        (for_the_group, "can be written by others"),
        (for_all, "can be written by others"),
        (hard_link, "has several hard links"),
        (pipe, "is a link or a special file"),
    ],
)
@pytest.mark.parametrize("name", ["", "claimed", "recordings", "trash", "id", "lock", "status.json"])
def test_what_is_not_the_spool_s_own_is_refused_and_not_touched(
    state: Path, change: Callable[[Path], None], sentence: str, name: str
) -> None:
    """The folder itself and each thing in it; the sentence names the thing and has a command to free it."""
    thing = state / name
    if thing.is_dir() and change in {hard_link, pipe}:
        pytest.skip("a folder can't be that")
    change(thing)
    before = picture(state.parent)
    sentence = "is not a folder, or is a link" if change is link and not name else sentence
    for use in (State.open, check):
        with pytest.raises(ConfigError) as refused:
            use(state)
        assert refused.value.message.startswith(f"state_dir: {thing} {sentence}")
        assert str(thing) in refused.value.hint
    after = picture(state.parent)
    assert [status[:7] for status in after.values()] == [status[:7] for status in before.values()]
    assert [status.st_ctime_ns for status in after.values()] == [status.st_ctime_ns for status in before.values()]


def test_what_an_older_version_let_all_read_is_closed(state: Path) -> None:
    """All but status.json; the folder can be passed through and not listed."""
    check(state)
    assert (state / "lock").stat().st_mode & 0o777 == 0o644, "a look changes nothing"
    with State.open(state):
        pass
    modes = {path.name: path.stat().st_mode & 0o777 for path in state.iterdir()}
    assert modes.pop("status.json") == 0o644
    assert set(modes.values()) == {0o600, 0o700}
    assert state.stat().st_mode & 0o777 == 0o711


def test_what_was_opened_is_used_whatever_comes_to_its_path(state: Path) -> None:
    """And people are shown the path that it has."""
    with State.open(state) as opened:
        assert opened.is_in_place()
        state.rename(state.with_name("moved"))
        assert not opened.is_in_place()
        state.mkdir()
        assert not opened.is_in_place()
        (opened.path / "mine").touch()
        assert (state.parent / "moved" / "mine").exists()
        assert real_paths(opened.path / "mine") == str(state.parent / "moved" / "mine")
    assert real_paths("/proc/self/fd/999999/a") == "/proc/self/fd/999999/a"


def test_what_a_running_daemon_renames_meanwhile_is_no_trouble(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes status.json under another name first, every second."""
    (state / ".status.json.new").write_text("{}")
    real = os.scandir

    def listed(fd: int) -> contextlib.nullcontext[list[os.DirEntry[str]]]:
        entries = list(real(fd))
        (state / ".status.json.new").replace(state / "status.json")
        return contextlib.nullcontext(entries)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", listed)
        check(state)
