"""When a file in the inbox is ready, sentence by sentence, on real files with a clock of the test's own."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from engines.base import EngineClass, EngineInfo
from jobs.spec.rules import Rules
from jobs.spool.places import Places
from jobs.spool.reading import Reading
from tests.in_process import ENGINES, Voice
from tests.spooling import until
from watcher.config.settings import Limits, ReadyConfig
from watcher.daemon.arrivals import HINTS_PER_STEP, Arrivals
from watcher.daemon.events import Events, Hints
from watcher.daemon.readiness import LOOK_AGAIN_S, Arrival, ArrivalPolicy, Readiness, Sighting

QUIET_S, NETWORK_QUIET_S, GRACE_S, COMPANIONS_S, SCAN_S = 1.0, 5.0, 10.0, 60.0, 10.0
DONE = b"text: hello\n"
CUT_OFF = b'text: "hel'


class Continues(Voice):
    """An engine that goes on where a recording ends."""

    @classmethod
    def info(cls) -> EngineInfo:
        return replace(super().info(), name="continues", clones_voices=True, needs_transcript=True)


CONTINUING = cast(EngineClass, Continues)
RULES = Rules(engines={**ENGINES, "continues": CONTINUING}, default_engine="voice")


class Told(Events):
    """Events as a test tells them; nothing comes from the kernel."""

    def __init__(self) -> None:
        self.hints, self.watched, self.trouble = Hints(), set[str](), ""

    def watch(self, folder: Path) -> None:
        self.watched.add(str(folder))

    def take(self) -> Hints:
        hints, self.hints = self.hints, Hints()
        return hints

    def forget(self) -> None:
        self.watched.clear()


class Desk:
    """An inbox, a clock, and what arrivals say."""

    def __init__(self, folder: Path, *, network: bool = False) -> None:
        self.inbox, self.voices = folder / "inbox", folder / "voices"
        for path in (self.inbox / ".voicespool", self.voices):
            path.mkdir(parents=True)
        self.now, self.events, self.read, self.deaths = 1000.0, Told(), list[str](), dict[str, int]()
        self.readiness = Readiness(
            inbox=self.inbox,
            places=lambda: Places(self.inbox, self.voices, self.inbox / ".voicespool"),
            policy=lambda: ArrivalPolicy(ReadyConfig(), Limits(), network),
            read=self._read,
            deaths=lambda source: self.deaths.get(source, 0),
            clock=lambda: self.now,
        )
        self.arrivals = Arrivals(self.inbox, self.readiness, self.events, clock=lambda: self.now)

    def _read(self, data: bytes, source: str) -> Reading:
        self.read.append(source)
        return Reading.at_once(data, Path(source).suffix, RULES)

    def write(self, source: str, data: bytes = DONE) -> Path:
        path = self.inbox / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def ready(self, after_s: float = 0.0) -> list[str]:
        """Let time pass, work, and claim what is ready."""
        return [arrival.source for arrival in self.arrived(after_s)]

    def arrived(self, after_s: float = 0.0) -> list[Arrival]:
        self.now += after_s
        self.arrivals.take_hints()
        found = []
        while arrival := self.arrivals.next(1.0):
            found.append(arrival)
            (self.inbox / arrival.source).unlink()
            self.arrivals.forget(arrival.source)
        return found

    def moved(self, source: str, data: bytes = DONE) -> Path:
        """A file that came by a rename, as inotify saw it."""
        path = self.write(source, data)
        self.events.hints.moved.add(str(path))
        return path

    def touched(self, path: Path) -> None:
        self.events.hints.touched.add(str(path))

    def reason(self, source: str) -> str:
        found = [s for held in (False, True) for s in self.arrivals.waiting(held=held) if s.source == source]
        return found[0].reason if found else ""


@pytest.fixture
def at(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """An inbox on a network file system, where nobody grants a lease."""

    def refused(*_arguments: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(fcntl, "fcntl", refused)
    return Desk(tmp_path, network=True)


# --- when --------------------------------------------------------------------------------------------


def test_one_found_by_a_scan_is_ready_after_the_quiet_time_from_when_it_was_seen(at: Desk) -> None:
    at.write("a.yaml")
    assert at.ready() == []
    assert "may still be written" in at.reason("a.yaml")
    assert at.ready(QUIET_S - 0.01) == []
    assert at.ready(0.01) == ["a.yaml"]


@pytest.mark.parametrize("mtime_s", [0, 4_000_000_000])
def test_the_files_own_clock_counts_for_nothing(at: Desk, mtime_s: int) -> None:
    """`cp -p` of an old file; one from the future."""
    os.utime(at.write("a.yaml"), (mtime_s, mtime_s))
    assert at.ready() == []
    assert at.ready(QUIET_S) == ["a.yaml"]


def test_one_moved_in_by_rename_is_ready_at_once(at: Desk) -> None:
    at.moved("radio/a.yaml")
    assert at.ready() == ["radio/a.yaml"]


def test_a_write_after_the_move_takes_the_word_back(at: Desk) -> None:
    at.moved("a.yaml")
    at.arrivals.take_hints()
    at.write("a.yaml", b"text: hello again\n")
    assert at.ready() == []
    assert at.ready(QUIET_S) == ["a.yaml"]


def test_one_written_in_place_is_ready_when_it_has_not_changed_for_the_quiet_time(at: Desk) -> None:
    """In pieces, with pauses shorter than that; each look sees another file."""
    path = at.write("a.yaml", b"text: one\n")
    at.ready()
    for piece in (b"# two\n", b"# three\n"):
        with path.open("ab") as writer:
            writer.write(piece)
        at.touched(path)
        assert at.ready(QUIET_S * 0.9) == []
    assert at.ready(QUIET_S) == ["a.yaml"]


def test_pauses_longer_than_the_quiet_time_do_not_matter_while_it_is_open(at: Desk) -> None:
    """However it came, also by a rename; half a text is valid YAML."""
    for source in ("a.yaml", "b.yaml"):
        with at.write(source, b"text: hel").open("ab") as writer:
            if source == "b.yaml":
                at.events.hints.moved.add(str(at.inbox / source))
            at.arrivals.sweep_soon()
            assert at.ready() == []
            assert at.ready(100.0) == []
            assert at.reason(source) == "a program has it open for writing"
            writer.write(b"lo\n")
            writer.flush()
            assert at.ready(100.0) == []
        at.ready(LOOK_AGAIN_S)
        at.ready(QUIET_S)
        assert at.reason(source) == ""
    assert sorted(at.read) == ["a.yaml", "b.yaml"]


def test_an_empty_file_waits_and_is_taken_when_it_is_filled(at: Desk) -> None:
    path = at.moved("a.yaml", b"")
    assert at.ready() == []
    assert at.reason("a.yaml") == "it is empty"
    assert at.ready(10_000.0) == []
    assert at.arrivals.settled(), "an empty one keeps nobody"
    path.write_bytes(DONE)
    at.touched(path)
    assert at.ready() == []
    assert at.ready(QUIET_S) == ["a.yaml"]


def test_a_sparse_file_that_is_filled_later_keeps_its_size_and_is_seen_to_change(at: Desk) -> None:
    """lftp makes the whole size first."""
    path = at.write("a.yaml", b"\0" * 12)
    at.ready()
    at.ready(QUIET_S)
    assert "can't be parsed yet" in at.reason("a.yaml")
    path.write_bytes(b"text: hello\n")
    os.utime(path, ns=(1, 1))
    at.touched(path)
    at.ready()
    assert at.ready(QUIET_S) == ["a.yaml"]


# --- a look inside -----------------------------------------------------------------------------------


def test_what_does_not_parse_waits_for_more_bytes_and_then_fails(at: Desk) -> None:
    at.write("a.yaml", CUT_OFF)
    at.ready()
    assert at.ready(QUIET_S) == []
    assert "can't be parsed yet" in at.reason("a.yaml")
    assert at.ready(GRACE_S - QUIET_S - 0.01) == []
    (arrival,) = at.arrived(0.01)
    assert arrival.documents is None
    assert arrival.data == CUT_OFF


def test_what_does_not_parse_and_gets_its_end_is_taken(at: Desk) -> None:
    path = at.write("a.yaml", CUT_OFF)
    at.ready()
    at.ready(QUIET_S)
    path.write_bytes(CUT_OFF + b'lo"\n')
    at.touched(path)
    assert at.ready() == []
    (arrival,) = at.arrived(QUIET_S)
    assert arrival.documents is not None


def test_wrong_values_are_not_waited_for(at: Desk) -> None:
    at.write("a.yaml", b"txt: hello\n")
    at.ready()
    (arrival,) = at.arrived(QUIET_S)
    assert arrival.documents is not None
    assert arrival.documents[0].problems


def test_a_stream_that_may_go_on_waits_for_its_next_document(at: Desk) -> None:
    """A writer that pauses after `---`: there is no problem to quote, and no reason to fall over."""
    path = at.write("a.yaml", b"text: one\n---\n")
    at.ready()
    assert at.ready(QUIET_S) == []
    assert at.reason("a.yaml") == "its end is missing; more bytes may follow"
    path.write_bytes(b"text: one\n---\ntext: two\n")
    at.touched(path)
    at.ready()
    (arrival,) = at.arrived(QUIET_S)
    assert len(arrival.documents or ()) == 2


def test_where_nobody_can_tell_who_writes_a_last_line_without_an_end_waits(remote: Desk) -> None:
    remote.write("a.yaml", b"text: hello wor")
    remote.write("b.yaml", b"text: hello world\n")
    remote.write("c.json", b'{"text": "hello"}')
    remote.ready()
    assert remote.ready(NETWORK_QUIET_S) == ["b.yaml", "c.json"]
    assert "no line end" in remote.reason("a.yaml")
    assert remote.ready(GRACE_S) == ["a.yaml"]


@pytest.mark.parametrize("size", [2, 1 << 40])
def test_a_file_too_large_is_set_aside_without_reading_it(at: Desk, size: int) -> None:
    os.truncate(at.moved("a.yaml"), (1 << 20) - 1 + size)
    (arrival,) = at.arrived()
    assert "larger than limits.job_file_bytes" in arrival.set_aside
    assert at.read == []


def test_a_file_that_killed_ten_daemons_is_set_aside_without_reading_it(at: Desk) -> None:
    at.deaths = {"a.yaml": 10, "b.yaml": 9}
    at.moved("a.yaml")
    at.moved("b.yaml")
    assert {arrival.source: bool(arrival.set_aside) for arrival in at.arrived()} == {"a.yaml": True, "b.yaml": False}
    assert at.read == ["b.yaml"]


# --- recordings --------------------------------------------------------------------------------------

SPEAKS = b"text: hello\nspeaker_wav: ana.wav\n"


def test_a_recording_that_is_not_there_yet_is_waited_for(at: Desk) -> None:
    at.moved("a.yaml", SPEAKS)
    assert at.ready() == []
    assert at.reason("a.yaml") == "waiting for the recording ana.wav: it is not there"
    at.touched(at.write("ana.wav", b"RIFF"))
    assert at.ready(0.01) == ["a.yaml"], "it need not wait for the next look"


def test_a_recording_that_comes_unseen_is_found_within_a_second(at: Desk) -> None:
    at.moved("radio/a.yaml", SPEAKS)
    at.ready()
    (at.voices / "ana.wav").write_bytes(b"RIFF")
    assert at.ready(1.0) == ["radio/a.yaml"]


def test_a_recording_that_is_still_growing_is_waited_for(at: Desk) -> None:
    with (at.voices / "ana.wav").open("wb") as writer:
        at.moved("a.yaml", SPEAKS)
        assert at.ready() == []
        writer.write(b"RIFF")
        assert at.ready(30.0) == []
        assert "still being written" in at.reason("a.yaml")
    assert at.ready(1.0) == ["a.yaml"]


def test_a_recording_that_never_comes_is_given_up(at: Desk) -> None:
    at.moved("a.yaml", SPEAKS)
    assert at.ready() == []
    assert at.ready(COMPANIONS_S - 0.01) == []
    assert not at.arrivals.settled(), "--once waits for it"
    assert at.ready(0.01) == ["a.yaml"]


def test_a_recording_that_may_not_be_had_is_not_waited_for(at: Desk) -> None:
    at.moved("a.yaml", b"text: hello\nspeaker_wav: ../ana.wav\n")
    assert at.ready() == ["a.yaml"]


CONTINUES = b"text: hello\nengine: continues\nspeaker_wav: ana.wav\n"


def test_a_transcript_is_waited_for_where_the_engine_needs_it(at: Desk) -> None:
    """Whichever comes first; while it is written; for the job that does not say it itself."""
    at.write("radio/ana.wav", b"RIFF")
    at.moved("radio/a.yaml", CONTINUES)
    assert at.ready() == []
    assert at.reason("radio/a.yaml") == "waiting for the transcript ana.txt: it is not there"
    with (at.inbox / "radio/ana.txt").open("wb") as writer:
        writer.write(b"Hel")
        writer.flush()
        assert at.ready(1.0) == []
        assert "still being written" in at.reason("radio/a.yaml")
    at.touched(at.inbox / "radio/ana.txt")
    assert at.ready(0.01) == ["radio/a.yaml"], "it need not wait for the next look"
    at.moved("radio/b.yaml", CONTINUES)
    assert at.ready() == ["radio/b.yaml"]


def test_a_transcript_that_never_comes_is_given_up(at: Desk) -> None:
    at.write("ana.wav", b"RIFF")
    at.moved("a.yaml", CONTINUES)
    assert at.ready(COMPANIONS_S - 0.01) == []
    assert at.ready(0.01) == []
    assert at.ready(COMPANIONS_S) == ["a.yaml"]


def test_a_transcript_that_nobody_needs_is_not_waited_for(at: Desk) -> None:
    at.write("ana.wav", b"RIFF")
    at.moved("a.yaml", SPEAKS)
    at.moved("b.yaml", CONTINUES + b"speaker_text: Hello.\n")
    assert at.ready() == ["a.yaml", "b.yaml"]


def test_a_file_that_waits_is_parsed_when_it_came_and_when_it_goes_whatever_the_time_between(at: Desk) -> None:
    at.write("a.yaml", b"text: hello\nspeaker_wav: ana.wav\n")
    at.ready()
    for _ in range(20):
        assert at.ready(QUIET_S) == []
    assert at.read == ["a.yaml"]
    at.write("a.yaml", b"text: hello again\nspeaker_wav: ana.wav\n")
    at.ready(SCAN_S)
    assert at.ready(QUIET_S) == []
    assert at.read == ["a.yaml"] * 2, "other bytes"
    at.write("ana.wav")
    assert at.ready(QUIET_S) == ["a.yaml"]
    assert at.read == ["a.yaml"] * 3


def test_a_recording_that_there_is_no_room_for_holds_its_job_alone(at: Desk) -> None:
    lacking = {at.inbox / "ana.wav"}
    at.readiness.lacks_room = lambda paths: "no room" if lacking & set(paths) else ""
    at.write("ana.wav")
    at.write("a.yaml", b"text: hello\nspeaker_wav: ana.wav\n")
    at.write("b.yaml")
    at.ready()
    assert at.ready(QUIET_S) == ["b.yaml"]
    assert [(held.source, held.reason) for held in at.arrivals.waiting(held=True)] == [("a.yaml", "no room")]
    assert at.arrivals.settled(), "a passing run does not wait for it"
    lacking.clear()
    assert at.ready(SCAN_S) == ["a.yaml"]


def test_a_file_is_read_elsewhere_while_others_go_on(at: Desk) -> None:
    reading = Reading()
    at.readiness.read = lambda data, source: reading if source == "a.yaml" else at._read(data, source)
    at.write("a.yaml")
    at.write("b.yaml")
    at.ready()
    assert at.ready(QUIET_S) == ["b.yaml"]
    assert not at.arrivals.settled()
    reading.end(at._read(DONE, "a.yaml").documents())
    at.arrivals.check_readings()
    assert at.ready() == ["a.yaml"]
    assert at.arrivals.settled()


def test_files_wait_on_disk_while_too_many_are_read(at: Desk) -> None:
    """One is read after another; what is gone meanwhile takes nobody's turn."""
    asked: dict[str, Reading] = {}

    def read(_data: bytes, source: str) -> Reading | None:
        if source in asked:
            return asked[source]
        return None if any(not one.ended for one in asked.values()) else asked.setdefault(source, Reading())

    at.readiness.read = read
    for number in range(4):
        at.write(f"{number}.yaml")
    at.ready()
    assert at.ready(QUIET_S) == []
    assert list(asked) == ["0.yaml"]
    assert at.reason("3.yaml") == "it waits until other files have been read"
    (at.inbox / "1.yaml").unlink()
    at.touched(at.inbox / "1.yaml")
    at.arrivals.take_hints()
    taken = []
    for number in (0, 2, 3):
        assert not at.arrivals.settled()
        asked[f"{number}.yaml"].end(at._read(DONE, "a.yaml").documents())
        at.arrivals.check_readings()
        taken += at.ready()
    assert taken == ["0.yaml", "2.yaml", "3.yaml"]
    assert at.arrivals.settled()


def test_a_file_with_other_names_in_a_folder_that_others_write_to_fails_unread(at: Desk, tmp_path: Path) -> None:
    """It may be a private file of somebody else. In a folder of one's own, links are one's own."""
    private, own = at.write("shared/a.yaml"), at.write("own/b.yaml")
    private.parent.chmod(0o2770)
    for number, path in enumerate((private, own)):
        os.link(path, tmp_path / f"elsewhere-{number}")
    at.ready()
    assert at.ready(QUIET_S) == ["own/b.yaml"]
    (arrival,) = at.arrived(GRACE_S)
    assert (arrival.source, arrival.data) == ("shared/a.yaml", b"")
    assert "hard links" in arrival.set_aside
    assert at.read == ["own/b.yaml"]


def test_on_a_network_a_recording_has_to_stand_still(remote: Desk) -> None:
    path = remote.voices / "ana.wav"
    path.write_bytes(b"RI")
    remote.write("a.yaml", SPEAKS)
    remote.ready()
    assert remote.ready(NETWORK_QUIET_S) == []
    path.write_bytes(b"RIFF")
    for _ in range(5):
        assert remote.ready(1.0) == []
    assert "just now" in remote.reason("a.yaml")
    assert remote.ready(1.0) == ["a.yaml"]


def test_a_job_that_changes_waits_for_the_recordings_of_its_new_words(at: Desk) -> None:
    path = at.moved("a.yaml", SPEAKS)
    at.ready()
    at.ready(COMPANIONS_S - 5.0)
    path.write_bytes(b"text: hello\nspeaker_wav: rui.wav\n")
    at.touched(path)
    at.ready()
    assert at.ready(QUIET_S) == []
    assert at.ready(COMPANIONS_S - 0.01) == []
    assert at.ready(0.01) == ["a.yaml"]


def test_what_is_kept_in_mind_of_recordings_is_bounded(remote: Desk) -> None:
    names = [f"r{number}.wav" for number in range(100)]
    for name in names:
        (remote.voices / name).write_bytes(b"RIFF")
    for number in range(15):
        remote.arrivals.readiness.companions._still_since(f"old{number}", 1, 0.0)
    for number in range(1100):
        remote.arrivals.readiness.companions._still_since(f"new{number}", 1, 0.0)
    assert len(remote.arrivals.readiness.companions._seen) == 1000
    assert "new1099" in remote.arrivals.readiness.companions._seen


# --- network -----------------------------------------------------------------------------------------


def test_on_a_network_every_look_opens_the_file_first(remote: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes are cached there; opening asks the server."""
    opened, real = [], os.open

    def noted(path: object, *arguments: int, **keywords: int) -> int:
        opened.append(str(path))
        return real(path, *arguments, **keywords)  # type: ignore[arg-type]

    remote.write("a.yaml")
    monkeypatch.setattr(os, "open", noted)
    assert remote.ready() == []
    assert "a.yaml" in opened
    assert remote.ready(NETWORK_QUIET_S - 0.01) == []
    assert remote.ready(0.01) == ["a.yaml"]


# --- events are hints, the scan is the truth ---------------------------------------------------------


def test_nothing_depends_on_an_event(at: Desk) -> None:
    at.ready()
    at.write("radio/new/a.yaml")
    assert at.ready(SCAN_S - 0.01) == []
    at.ready(0.01)
    assert at.ready(QUIET_S) == ["radio/new/a.yaml"]


def test_lost_events_make_the_scan_sooner(at: Desk) -> None:
    at.ready()
    at.write("a.yaml")
    at.events.hints.lost = True
    assert at.ready(0.1) == []
    assert at.ready(QUIET_S) == ["a.yaml"]


def test_a_sweep_asked_for_during_a_sweep_is_not_forgotten_nor_the_last(at: Desk) -> None:
    """A folder is made where the sweep has been already, and its event comes before the sweep has ended."""
    for number in range(40):
        at.write(f"a/{number}.txt")
        at.write(f"b/{number}.txt")
    walk = at.arrivals
    while "a/39.txt" not in walk.ignored:
        assert walk._continue_sweep(at.now)
    at.write("a/new/job.yaml")
    at.touched(at.inbox / "a/new")
    assert at.ready() == []
    assert at.ready(QUIET_S) == ["a/new/job.yaml"]
    at.write("later.yaml")
    at.ready(SCAN_S)
    assert at.ready(QUIET_S) == ["later.yaml"]


def test_the_next_work_is_known_to_the_moment(at: Desk) -> None:
    assert at.arrivals.busy()
    at.ready()
    assert not at.arrivals.busy()
    assert at.arrivals.due_in(at.now) == SCAN_S
    at.moved("a.yaml", CUT_OFF.replace(b'"', b""))
    at.arrivals.take_hints()
    assert at.arrivals.due_in(at.now) == 0.0
    at.ready()
    at.touched(at.write("b.yaml"))
    at.arrivals.take_hints()
    assert at.arrivals.due_in(at.now) == QUIET_S


def test_every_folder_is_watched_before_it_is_read(at: Desk) -> None:
    at.write("radio/deep/a.yaml")
    at.write(".hidden/a.yaml")
    before = at.arrivals.swept_once
    at.ready()
    assert (before, at.arrivals.swept_once) == (False, True)
    assert at.events.watched == {str(at.inbox / name) for name in ("", "radio", "radio/deep")}


def test_the_first_job_is_ready_before_a_large_inbox_is_read(at: Desk) -> None:
    for number in range(200):
        at.write(f"{number}.yaml")
    at.ready()
    at.now += QUIET_S
    first = at.arrivals.next(1.0)
    assert first is not None
    assert first.source == "0.yaml"
    at.arrivals.forget("0.yaml")
    assert at.ready() == [f"{number}.yaml" for number in range(1, 200)], "in natural order"


def test_a_budget_is_kept(at: Desk) -> None:
    """Between any two steps the daemon can look after the running job."""
    for number in range(100):
        at.write(f"{number}.yaml")
    ticks = iter(range(10_000))
    at.arrivals.clock = lambda: at.now + next(ticks) * 0.001
    assert at.arrivals.next(0.004) is None
    assert at.arrivals._walk is not None


# --- what goes away, changes and is held -------------------------------------------------------------


def test_what_is_removed_or_renamed_while_it_waits_is_forgotten(at: Desk) -> None:
    path = at.write("a.yaml", b"")
    at.write("radio/b.yaml", b"")
    at.ready()
    assert at.arrivals.counts()["waiting"] == 2
    path.rename(at.inbox / "c.yaml")
    at.touched(path)
    (at.inbox / "radio/b.yaml").unlink()
    (at.inbox / "radio").rmdir()
    (at.inbox / "radio").touch()
    at.ready(SCAN_S)
    assert [sighting.source for sighting in at.arrivals.waiting(held=False)] == ["c.yaml"]
    assert at.arrivals.waiting(held=True) == []


def test_a_file_that_can_not_be_read_is_held_alone_and_looked_at_again(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode 000 of another user, or a bad sector."""
    at.write("a.yaml")
    at.write("b.yaml")
    at.ready()
    real = os.open

    def refused(path: object, *arguments: int, **keywords: int) -> int:
        if path == "a.yaml":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *arguments, **keywords)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        assert at.ready(QUIET_S) == ["b.yaml"]
        assert at.arrivals.counts() == {"ready": 0, "waiting": 0, "held": 1, "ignored": 0}
        assert at.reason("a.yaml") == "it can't be read: Permission denied"
        assert at.arrivals.settled()
        assert at.ready(SCAN_S) == []
    assert at.ready(SCAN_S) == ["a.yaml"]


def test_one_that_can_not_be_claimed_is_held_until_the_next_sweep(at: Desk) -> None:
    at.ready()
    at.moved("a.yaml")
    at.arrivals.take_hints()
    arrival = at.arrivals.next(1.0)
    assert arrival is not None
    at.arrivals.hold("a.yaml", "it can't be moved out of its folder: Read-only file system")
    assert at.ready() == []
    assert at.arrivals.counts()["held"] == 1
    assert at.ready(SCAN_S + 1.0) == ["a.yaml"]


def test_one_that_changed_while_it_was_claimed_is_as_new(at: Desk) -> None:
    at.moved("a.yaml")
    at.arrivals.take_hints()
    assert at.arrivals.next(1.0)
    at.arrivals.look_again("a.yaml")
    assert at.ready() == []
    assert at.ready(QUIET_S) == ["a.yaml"]


# --- what is never opened ----------------------------------------------------------------------------


def test_what_is_ignored_is_counted_and_not_kept(at: Desk) -> None:
    for number in range(15_000):
        (at.inbox / f"note-{number}.txt").touch()
    at.write("a.yaml")
    at.ready()
    tracemalloc.start()
    assert at.ready(SCAN_S) == ["a.yaml"]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert at.arrivals.counts()["ignored"] == 15_000
    assert peak_bytes < 2_000_000, "half of that is what is shown"


def test_what_is_too_deep_is_ignored_by_name_also_when_events_tell_of_it(at: Desk) -> None:
    """A stranger's path of 10,000 bytes costs nobody its weight in memory."""
    deep = "/".join("d" * 20 for _ in range(80))
    path = at.write(f"{deep}/a.yaml")
    at.write("b.yaml")
    at.ready()
    at.events.hints.moved.add(str(path))
    assert at.ready(QUIET_S) == ["b.yaml"]
    (reason,) = at.arrivals.ignored.values()
    assert "folders deep" in reason


def test_only_a_regular_file_cancels(at: Desk, tmp_path: Path) -> None:
    """A link or a pipe could not be removed, and would be found again for ever."""
    (at.inbox / "a.cancel").symlink_to(tmp_path)
    os.mkfifo(at.inbox / "b.cancel")
    (at.inbox / "c.cancel").touch()
    at.events.hints.touched.update(str(at.inbox / f"{name}.cancel") for name in "abc")
    at.ready()
    at.ready(SCAN_S)
    assert at.arrivals.cancels == {"c.cancel"}


def test_of_many_events_some_are_looked_at_a_step(at: Desk) -> None:
    for number in range(3 * HINTS_PER_STEP):
        at.events.hints.moved.add(str(at.write(f"{number}.yaml")))
    at.arrivals.take_hints()
    assert len(at.arrivals._sightings) == HINTS_PER_STEP
    assert at.arrivals.busy()
    at.arrivals.take_hints()
    at.arrivals.take_hints()
    assert len(at.arrivals._sightings) == 3 * HINTS_PER_STEP


def test_links_pipes_and_folders_with_a_jobs_name_are_never_opened(at: Desk, tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_bytes(DONE)
    (at.inbox / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    os.mkfifo(at.inbox / "pipe.yaml")
    at.write("folder.yaml/a.yaml")
    at.events.hints.moved.update(str(at.inbox / name) for name in ("link.yaml", "pipe.yaml", "folder.yaml"))
    at.ready()
    assert at.ready(QUIET_S) == ["folder.yaml/a.yaml"]
    at.ready(SCAN_S)
    assert at.arrivals.ignored == {
        "link.yaml": "a symbolic link is never opened",
        "pipe.yaml": "not a regular file; it is never opened",
    }
    assert at.arrivals.counts()["ignored"] == 2


@pytest.mark.parametrize("network", [False, True])
def test_a_folder_swapped_for_a_link_gives_nothing_away(tmp_path: Path, network: bool) -> None:
    """A file seen in a real folder is not looked for behind a link of that name."""
    at = Desk(tmp_path, network=network)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.yaml").write_bytes(DONE)
    at.write("x/a.yaml")
    at.ready()
    (at.inbox / "x").rename(tmp_path / "away")
    (at.inbox / "x").symlink_to(outside)
    at.touched(at.inbox / "x" / "a.yaml")
    assert at.ready(NETWORK_QUIET_S) == []
    assert at.ready(SCAN_S) == []
    assert at.read == []


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_file_swapped_just_before_the_look_is_not_opened(at: Desk, tmp_path: Path, kind: str) -> None:
    path = at.write("a.yaml")
    at.ready()
    path.unlink()
    path.symlink_to(tmp_path) if kind == "link" else os.mkfifo(path)
    assert at.ready(QUIET_S) == []
    assert at.read == []


def test_temporary_files_of_clients_are_named_with_a_reason(at: Desk) -> None:
    for name in ("notes.txt", "a.yaml.partial", "#a.yaml#", "x.sync-conflict-1.yaml", "defaults.yaml", "sub/b.tmp"):
        at.write(name)
    for name in (".a.yaml.Xy12", ".hidden/a.yaml", ".voicespool/claimed/x.yaml", "@eaDir/a.yaml", "lost+found/a.yaml"):
        at.write(name)
    at.ready()
    assert at.ready(QUIET_S) == []
    files = {"notes.txt", "a.yaml.partial", "#a.yaml#", "x.sync-conflict-1.yaml", "defaults.yaml", "sub/b.tmp"}
    assert at.arrivals.ignored.keys() == files | {".a.yaml.Xy12", ".hidden/", "@eaDir/", "lost+found/"}
    assert all(at.arrivals.ignored.values())


def test_strange_names_are_jobs_like_all_others(at: Desk) -> None:
    names = ["a b.yaml", "😀.JSON", "line\nbreak.yml", "-rf.yaml", "x" * 250 + ".yaml", os.fsdecode(b"caf\xe9.yaml")]
    for name in names:
        at.write(name, b'{"text": "hello"}')
    at.ready()
    assert sorted(at.ready(QUIET_S)) == sorted(names)


def test_what_is_shown_is_bounded(at: Desk) -> None:
    for number in range(1100):
        at.write(f"{number}.txt")
        at.arrivals._sightings[f"{number}.yaml"] = Sighting(f"{number}.yaml", 0, 0.0, False, 1, reason="it is empty")
    at.ready()
    assert len(at.arrivals.ignored) == 1000
    assert at.arrivals.counts()["ignored"] == 1100


# --- words of the operator ---------------------------------------------------------------------------


def test_pause_and_cancel_are_seen(at: Desk) -> None:
    assert not at.arrivals.paused()
    at.write("PAUSE", b"")
    at.write("radio/hello.cancel", b"")
    at.write("radio/.hello.cancel", b"")
    at.write("sub/PAUSE", b"")
    at.write("radio/hello.yaml", b"")
    at.write("radio/hello.json", b"")
    at.write("hello.yaml", b"")
    at.ready()
    assert at.arrivals.paused()
    assert at.arrivals.cancels == {"radio/hello.cancel"}
    assert sorted(at.arrivals.named("radio/hello")) == ["radio/hello.json", "radio/hello.yaml"]
    assert "PAUSE" not in at.arrivals.ignored
    at.touched(at.write("x.cancel", b""))
    at.ready()
    assert at.arrivals.cancels == {"radio/hello.cancel", "x.cancel"}


# --- at scale ----------------------------------------------------------------------------------------


def test_a_waiting_file_is_small(at: Desk) -> None:
    """100,000 of them stay under 80 MB."""
    import tracemalloc

    count = 2_000
    for number in range(count):
        (at.inbox / f"job-{number:06d}.yaml").touch()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        at.ready()
        each = (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
    assert len(at.arrivals._sightings) == count
    assert each < 800


def test_recordings_that_come_in_a_burst_wake_only_the_jobs_that_wait_for_one(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        at.moved(f"{number}.yaml", b"")
    at.moved("a.yaml", SPEAKS)
    at.ready()
    planned, real = list[str](), Arrivals._plan

    def plan(own: Arrivals, sighting: Sighting, due: float) -> None:
        planned.append(sighting.source)
        real(own, sighting, due)

    monkeypatch.setattr(Arrivals, "_plan", plan)
    for number in range(50):
        at.touched(at.write(f"{number}.wav"))
    at.arrivals.take_hints()
    assert planned == ["a.yaml"]


# --- with the kernel's own events --------------------------------------------------------------------


@pytest.fixture
def live(at: Desk) -> Iterator[Events]:
    """Arrivals that hear real events; the clock stands still."""
    events = Events()
    at.arrivals.events = events
    at.ready()
    yield events
    events.close()


def heard(at: Desk, live: Events) -> list[str]:
    """Wait for events until something is ready, and say what."""

    def ready() -> list[str]:
        select.select([live.wake_fd], [], [], 1.0)
        return at.ready()

    return until(ready, "an event that makes a file ready")


def test_a_rename_into_the_inbox_is_heard_at_once(at: Desk, live: Events, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(DONE)
    (tmp_path / "a.yaml").rename(at.inbox / "a.yaml")
    assert heard(at, live) == ["a.yaml"]


def test_a_folder_of_jobs_moved_in_is_found_at_once(at: Desk, live: Events, tmp_path: Path) -> None:
    (tmp_path / "radio/deep").mkdir(parents=True)
    (tmp_path / "radio/deep/a.yaml").write_bytes(b"")
    (tmp_path / "radio").rename(at.inbox / "radio")
    until(lambda: (at.ready(), live.watches(at.inbox / "radio/deep"))[1], "the new folders are watched")
    (tmp_path / "b.yaml").write_bytes(DONE)
    (tmp_path / "b.yaml").rename(at.inbox / "radio/deep/b.yaml")
    assert heard(at, live) == ["radio/deep/b.yaml"]
    at.ready(QUIET_S)
    assert at.reason("radio/deep/a.yaml") == "it is empty"
