"""What is remembered of the claims of the last day: enough, not for ever, and never more than its bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.spool import claimed_lately
from jobs.spool.claimed_lately import DAY_S, REFRESH_S, ClaimedLately

NOON_S = 1_800_000_000
FILE = ("radio/hello.yaml", "ab" * 32, 123_456_789)


class Clock:
    """Unix time that a test sets."""

    def __init__(self) -> None:
        self.now_s = float(NOON_S)

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lately(tmp_path: Path, clock: Clock) -> ClaimedLately:
    return opened(tmp_path, clock)


def opened(folder: Path, clock: Clock) -> ClaimedLately:
    """As the next daemon opens it."""
    lately = ClaimedLately.open(folder / "claimed-lately")
    lately.clock = clock
    return lately


def test_only_the_same_name_bytes_and_time_are_known(lately: ClaimedLately) -> None:
    lately.note(*FILE)
    source, sha256, mtime_ns = FILE
    assert lately.recall(*FILE) == "2027-01-15 08:00:00 UTC"
    assert lately.recall("radio/other.yaml", sha256, mtime_ns) == ""
    assert lately.recall(source, "cd" * 32, mtime_ns) == ""
    assert lately.recall(source, sha256, mtime_ns + 1) == ""


def test_names_that_are_not_utf8_are_told_apart(lately: ClaimedLately) -> None:
    lately.note("\udcff.yaml", *FILE[1:])
    assert lately.recall("\udcff.yaml", *FILE[1:])
    assert not lately.recall("\udcfe.yaml", *FILE[1:])


def test_it_is_known_for_a_day_and_for_a_day_from_each_look(lately: ClaimedLately, clock: Clock) -> None:
    """A file that lies there is looked at again and again, and stays the one of before."""
    lately.note(*FILE)
    for _ in range(30):
        clock.now_s += REFRESH_S + 1
        assert lately.recall(*FILE) == "2027-01-15 08:00:00 UTC"
    clock.now_s += DAY_S + 1
    assert lately.recall(*FILE) == ""


def test_the_next_daemon_knows_it_too(lately: ClaimedLately, clock: Clock, tmp_path: Path) -> None:
    lately.note(*FILE)
    clock.now_s += DAY_S - 1
    lately.recall(*FILE)
    clock.now_s += DAY_S - 1
    assert opened(tmp_path, clock).recall(*FILE) == "2027-01-15 08:00:00 UTC"


def test_the_oldest_are_forgotten_first_and_the_file_stays_small(
    lately: ClaimedLately, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimed_lately, "MAX_CLAIMS", 10)
    for number in range(35):
        lately.note(f"{number}.yaml", *FILE[1:])
        assert len((tmp_path / "claimed-lately").read_text().splitlines()) <= 20
    for known in (lately, opened(tmp_path, clock)):
        assert [number for number in range(35) if known.recall(f"{number}.yaml", *FILE[1:])] == list(range(25, 35))


def test_a_damaged_file_means_less_and_no_trouble(clock: Clock, tmp_path: Path) -> None:
    opened(tmp_path, clock).note(*FILE)
    path = tmp_path / "claimed-lately"
    path.write_bytes(b"\xff\xfe rubbish\n1 2\nx y z\n" + path.read_bytes() + b"18000")
    assert opened(tmp_path, clock).recall(*FILE)


def test_a_disk_that_refuses_is_no_trouble(lately: ClaimedLately, tmp_path: Path) -> None:
    (tmp_path / "claimed-lately").mkdir()
    lately.note(*FILE)
    assert lately.recall(*FILE)
