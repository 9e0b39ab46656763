"""Recordings that a job names: found inside the folders alone, copied by content, once."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from files.allowed_paths import NotAllowed
from jobs.spool.places import Places, read_transcript
from jobs.spool.recordings import Snapshots
from tests.in_process import through


@pytest.fixture
def places(tmp_path: Path) -> Places:
    for name in ("inbox/radio", "inbox/.voicespool/recordings", "voices", "outside", "archive"):
        (tmp_path / name).mkdir(parents=True)
    return Places(tmp_path / "inbox", tmp_path / "voices", tmp_path / "inbox/.voicespool", max_bytes=1000)


@pytest.fixture
def snapshots(places: Places) -> Snapshots:
    return Snapshots(places.state / "recordings", lambda: places)


def written(path: Path, content: bytes = b"RIFF") -> Path:
    path.write_bytes(content)
    return path


def taken(snapshots: Snapshots, recording: Path, into: Path) -> str:
    """Take a recording for a file with one job."""
    return through(snapshots.copies().take(recording, into))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- where it may lie ------------------------------------------------------------------------------


def test_beside_the_job_file_first_then_under_voices(places: Places) -> None:
    job_folder = places.inbox / "radio"
    assert places.find("ana.wav", job_folder) is None
    theirs = written(places.voices / "ana.wav")
    assert places.find("ana.wav", job_folder) == theirs
    beside = written(job_folder / "ana.wav")
    assert places.find("ana.wav", job_folder) == beside
    (places.voices / "pt").mkdir()
    deep = written(places.voices / "pt" / "rui.wav")
    assert places.find("pt/rui.wav", job_folder) == deep


def test_the_ending_may_be_left_out(places: Places) -> None:
    """Next to the job file first; an exact name before any ending; a folder of that name is in nobody's way."""
    job_folder = places.inbox / "radio"
    theirs = written(places.voices / "ana.MP3")
    assert places.find("ana", job_folder) == theirs
    (places.voices / "ana").mkdir()
    assert places.find("ana", job_folder) == theirs
    ours = written(job_folder / "ana.v2.flac")
    assert places.find("ana.v2", job_folder) == ours
    beside = written(job_folder / "ana.wav")
    assert places.find("ana", job_folder) == beside
    exact = written(places.voices / "rui")
    written(places.voices / "rui.wav")
    assert places.find("rui", job_folder) == exact
    assert places.find("ana.ogg", job_folder) is None, "another ending is another recording"
    assert places.find("ana.txt", job_folder) is None


def test_a_name_that_several_endings_fit_is_refused_with_a_list(places: Places) -> None:
    for ending in (".wav", ".flac"):
        written(places.voices / f"ana{ending}")
    with pytest.raises(NotAllowed, match=r"ana fits several recordings in one folder: ana\.wav and ana\.flac"):
        places.find("ana", places.inbox)
    assert places.find("ana.flac", places.inbox) == places.voices / "ana.flac"


@pytest.mark.parametrize(
    ("name", "near"),
    [("anna.wav", "ana.wav"), ("anna", "ana"), ("Ana.wav", "ana.wav"), ("pt/ruy.wav", "pt/rui.wav"), ("zzz.wav", "")],
)
def test_one_that_is_not_there_names_the_nearest_that_is(places: Places, name: str, near: str) -> None:
    (places.voices / "pt").mkdir()
    written(places.voices / "pt/rui.wav")
    written(places.inbox / "radio/ana.wav")
    written(places.inbox / "radio/anna.yaml")
    sentence = places.missing(name, places.inbox / "radio")
    assert sentence.startswith(f"the recording {name} is neither next to the job file nor in voices/")
    assert sentence.endswith(f"did you mean `{near}`?" if near else "voices/")


def test_what_lies_outside_is_not_named(places: Places, tmp_path: Path) -> None:
    """A link to a private folder, the state and an absolute path list nothing."""
    written(tmp_path / "outside/secret.wav")
    written(places.state / "secret.wav")
    (places.inbox / "out").symlink_to(tmp_path / "outside")
    for name in ("out/secre.wav", ".voicespool/secre.wav", str(tmp_path / "outside/secre.wav")):
        assert "did you mean" not in places.missing(name, places.inbox)


@pytest.mark.parametrize(
    "name", ["../outside/a.wav", "x/../../outside/a.wav", "/etc/passwd", "a\0.wav", "..", "link.wav", "out/a.wav"]
)
def test_nothing_leads_out(places: Places, tmp_path: Path, name: str) -> None:
    written(tmp_path / "outside" / "a.wav")
    (places.inbox / "link.wav").symlink_to(tmp_path / "outside" / "a.wav")
    (places.inbox / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(NotAllowed):
        places.find(name, places.inbox)


def test_links_that_stay_inside_are_followed(places: Places) -> None:
    real = written(places.voices / "ana.wav")
    (places.inbox / "link.wav").symlink_to(real)
    assert places.find("link.wav", places.inbox) == real


def test_the_spools_own_folder_is_never_served(places: Places) -> None:
    written(places.state / "id")
    with pytest.raises(NotAllowed):
        places.find(".voicespool/id", places.inbox)


def test_an_absolute_name_needs_the_operators_leave(places: Places, tmp_path: Path) -> None:
    path = written(tmp_path / "archive" / "a.wav")
    with pytest.raises(NotAllowed, match="allowed_roots"):
        places.find(str(path), places.inbox)
    allowed = Places(places.inbox, places.voices, places.state, (tmp_path / "archive",))
    assert allowed.find(str(path), places.inbox) == path


def test_what_is_no_file_is_refused_in_words(places: Places) -> None:
    (places.voices / "folder.wav").mkdir()
    os.mkfifo(places.voices / "pipe.wav")
    (places.voices / "loop.wav").symlink_to("loop.wav")
    for name in ("folder.wav", "pipe.wav", "loop.wav", "x" * 300):
        with pytest.raises(NotAllowed) as caught:
            places.find(name, places.inbox)
        assert str(caught.value).isprintable()


def test_a_link_to_nothing_is_not_there_yet(places: Places) -> None:
    (places.inbox / "a.wav").symlink_to(places.voices / "later.wav")
    assert places.find("a.wav", places.inbox) is None
    assert places.find("a.wav/b.wav", places.inbox) is None


# --- the copy --------------------------------------------------------------------------------------


def test_a_copy_is_what_was_there_and_is_shared_by_content(snapshots: Snapshots, tmp_path: Path) -> None:
    source = written(snapshots.places().voices / "ana.wav", b"first")
    one, two = tmp_path / "one", tmp_path / "two"
    first = taken(snapshots, source, one)
    assert first == digest(b"first")
    source.write_bytes(b"other")
    assert taken(snapshots, source, two) == digest(b"other")
    written(snapshots.places().voices / "twin.wav", b"first")
    assert taken(snapshots, snapshots.places().voices / "twin.wav", two) == first
    assert (one / first).read_bytes() == b"first"
    assert (one / first).samefile(two / first)
    assert sorted(os.listdir(snapshots.folder)) == sorted([first, digest(b"other")])


def test_a_recording_known_already_is_not_read_again(
    snapshots: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(snapshots.places().voices / "ana.wav")
    taken(snapshots, source, tmp_path / "one")
    monkeypatch.delattr(os, "pread")
    assert (tmp_path / "two" / taken(snapshots, source, tmp_path / "two")).exists()


def test_a_copy_that_was_removed_is_made_again(snapshots: Snapshots, tmp_path: Path) -> None:
    source = written(snapshots.places().voices / "ana.wav")
    first = taken(snapshots, source, tmp_path / "one")
    (snapshots.folder / first).unlink()
    assert (tmp_path / "two" / taken(snapshots, source, tmp_path / "two")).read_bytes() == b"RIFF"


def test_half_a_copy_in_the_jobs_folder_is_made_whole(snapshots: Snapshots, tmp_path: Path) -> None:
    """Where there are no hard links, a crash can leave one."""
    source = written(snapshots.places().voices / "ana.wav")
    (tmp_path / "one").mkdir()
    written(tmp_path / "one" / digest(b"RIFF"), b"RI")
    assert (tmp_path / "one" / taken(snapshots, source, tmp_path / "one")).read_bytes() == b"RIFF"


@pytest.mark.parametrize("kind", ["link", "pipe", "large", "gone", "folder"])
def test_what_was_swapped_since_it_was_found_is_refused(snapshots: Snapshots, tmp_path: Path, kind: str) -> None:
    source = snapshots.places().voices / "ana.wav"
    if kind == "link":
        source.symlink_to(written(tmp_path / "outside" / "a.wav"))
    elif kind == "pipe":
        os.mkfifo(source)
    elif kind == "large":
        written(source, b"x" * 1001)
    elif kind == "folder":
        source.mkdir()
    with pytest.raises(NotAllowed):
        taken(snapshots, source, tmp_path / "one")
    assert os.listdir(snapshots.folder) == []


def test_a_folder_on_the_way_swapped_for_a_link_is_noticed(snapshots: Snapshots, tmp_path: Path) -> None:
    (snapshots.places().voices / "pt").mkdir()
    written(snapshots.places().voices / "pt" / "a.wav")
    found = snapshots.places().find("pt/a.wav", snapshots.places().inbox)
    assert found is not None
    written(tmp_path / "outside" / "a.wav", b"secret")
    found.unlink()
    found.parent.rmdir()
    found.parent.symlink_to(tmp_path / "outside")
    with pytest.raises(NotAllowed, match="moved"):
        taken(snapshots, found, tmp_path / "one")


def test_one_that_grows_while_it_is_copied_is_refused(
    snapshots: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more is read than was there at first, however fast it grows."""
    source, real, asked = written(snapshots.places().voices / "ana.wav"), os.pread, []

    def growing(fd: int, size: int, offset: int) -> bytes:
        asked.append(size)
        with source.open("ab") as writer:
            writer.write(b"more")
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", growing)
    with pytest.raises(NotAllowed, match="changed"):
        taken(snapshots, source, tmp_path / "one")
    assert asked == [4]
    assert os.listdir(snapshots.folder) == []


def test_a_full_disk_is_no_fault_of_the_recording(
    snapshots: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes through as an OSError, which callers turn into a hold; nothing half-copied stays."""
    source = written(snapshots.places().voices / "ana.wav")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            taken(snapshots, source, tmp_path / "one")
    assert os.listdir(snapshots.folder) == []
    assert taken(snapshots, source, tmp_path / "one")


def test_a_recording_that_can_not_be_read_is_the_jobs_trouble(
    snapshots: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(snapshots.places().voices / "ana.wav")

    def bad_sector(*_arguments: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", bad_sector)
    with pytest.raises(NotAllowed, match="Input/output"):
        taken(snapshots, source, tmp_path / "one")


def test_a_sparse_recording_is_copied_in_slices_and_stays_sparse(places: Places, tmp_path: Path) -> None:
    snapshots = Snapshots(places.state / "recordings", lambda: replace(places, max_bytes=1 << 30))
    source = written(places.voices / "ana.wav")
    os.truncate(source, 40 << 20)
    steps = snapshots.copies().take(source, tmp_path / "one")
    assert sum(1 for _ in steps) == 5
    (copy,) = (tmp_path / "one").iterdir()
    assert copy.stat().st_size == 40 << 20
    assert copy.stat().st_blocks * 512 < 4 << 20
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == copy.name


def test_the_recordings_of_one_job_file_may_take_so_much_together(snapshots: Snapshots, tmp_path: Path) -> None:
    """One that several of its jobs use counts once."""
    places = replace(snapshots.places(), job_bytes=1500)
    snapshots.places = lambda: places
    first, second = (written(snapshots.places().voices / name, bytes([7]) * 800 + name.encode()) for name in "ab")
    copies = snapshots.copies()
    through(copies.take(first, tmp_path / "one"))
    through(copies.take(first, tmp_path / "two"))
    with pytest.raises(NotAllowed, match=r"limits.job_bytes \(1500 bytes\)"):
        through(copies.take(second, tmp_path / "one"))
    assert taken(snapshots, second, tmp_path / "three")


def test_a_recording_leaves_the_reserve_of_the_disk_free(snapshots: Snapshots, tmp_path: Path) -> None:
    source = written(snapshots.places().voices / "ana.wav")
    assert snapshots.why_no_room([source]) == ""
    disk = os.statvfs(snapshots.folder)
    full = os.statvfs_result((*disk[:3], 0, 0, *disk[5:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _path: full)
        places = replace(snapshots.places(), free_bytes=1 << 20)
        snapshots.places = lambda: places
        assert "limits.free_bytes" in snapshots.why_no_room([source])
        with pytest.raises(NotAllowed, match="no space"):
            taken(snapshots, source, tmp_path / "one")
    held = taken(snapshots, source, tmp_path / "one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _path: full)
        assert snapshots.why_no_room([source]) == "", "it needs no more room"
        assert taken(snapshots, source, tmp_path / "two") == held


def test_a_recording_with_other_names_is_refused_where_others_may_have_made_them(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    source = written(snapshots.places().voices / "ana.wav")
    os.link(source, tmp_path / "elsewhere")
    assert taken(snapshots, source, tmp_path / "one")
    snapshots.places().voices.chmod(0o777)
    with pytest.raises(NotAllowed, match="hard links"):
        taken(snapshots, source, tmp_path / "two")


def test_copies_go_with_the_last_job_that_holds_them(snapshots: Snapshots, tmp_path: Path) -> None:
    source = written(snapshots.places().voices / "ana.wav")
    held = taken(snapshots, source, tmp_path / "one")
    taken(snapshots, source, tmp_path / "two")
    snapshots.remove_unused([held, "no such"])
    snapshots.sweep()
    assert (snapshots.folder / held).exists()
    for folder in ("one", "two"):
        (tmp_path / folder / held).unlink()
    snapshots.remove_unused([held])
    assert os.listdir(snapshots.folder) == []


def test_a_sweep_removes_what_a_crash_left(snapshots: Snapshots, tmp_path: Path) -> None:
    written(snapshots.folder / ".half")
    (snapshots.folder / "folder").mkdir()
    held = taken(snapshots, written(snapshots.places().voices / "ana.wav"), tmp_path / "one")
    snapshots.sweep()
    assert os.listdir(snapshots.folder) == [held]


def test_memory_of_known_recordings_is_bounded(snapshots: Snapshots) -> None:
    snapshots._known.update({(number,): "x" for number in range(1024)})
    taken(snapshots, written(snapshots.places().voices / "ana.wav"), snapshots.folder.parent / "one")
    assert len(snapshots._known) == 1024


def test_the_folder_voices_is_not_part_of_a_name(places: Places) -> None:
    written(places.voices / "ana.wav")
    assert places.missing("voices/ana.wav", places.inbox).endswith(
        "there is no recording voices/ana.wav; did you mean `ana.wav`?"
    )


def test_nobody_is_told_what_is_there_outside_of_the_folders(places: Places) -> None:
    """The same sentence for what is there and for what is not, by an absolute name and by a link."""
    written(places.inbox.parent / "outside/secret.wav")
    said = []
    for name in ("secret.wav", "nothing.wav"):
        (places.inbox / "link.wav").unlink(missing_ok=True)
        (places.inbox / "link.wav").symlink_to(places.inbox.parent / "outside" / name)
        for asked in (str(places.inbox.parent / "outside" / name), "link.wav"):
            with pytest.raises(NotAllowed) as refused:
                places.find(asked, places.inbox)
            said.append(str(refused.value).replace(name, "NAME"))
    assert said[:2] == said[2:]


def test_a_long_chain_of_links_is_refused_by_the_kernel(places: Places) -> None:
    (places.inbox / "0.wav").symlink_to(written(places.voices / "ana.wav"))
    for number in range(1, 60):
        (places.inbox / f"{number}.wav").symlink_to(f"{number - 1}.wav")
    assert places.find("30.wav", places.inbox) == places.voices / "ana.wav"
    with pytest.raises(NotAllowed, match="Too many levels of symbolic links"):
        places.find("59.wav", places.inbox)


def test_a_transcript_that_may_be_somebody_elses_is_none(places: Places) -> None:
    written(places.voices / "ana.txt", b"The password is hunter2.")
    os.link(places.voices / "ana.txt", places.inbox.parent / "private.txt")
    assert read_transcript(places.voices / "ana.wav") is not None
    places.voices.chmod(0o2770)
    assert read_transcript(places.voices / "ana.wav") is None


# --- the transcript --------------------------------------------------------------------------------


def test_the_text_beside_a_recording(tmp_path: Path) -> None:
    recording = written(tmp_path / "ana.wav")
    assert read_transcript(recording) is None
    written(tmp_path / "ana.txt", "\ufeff  Olá, eu sou a Ana.\n".encode())
    assert read_transcript(recording) == "Olá, eu sou a Ana."
    written(tmp_path / "ana.txt", b" \n")
    assert read_transcript(recording) is None
    written(tmp_path / "ana.txt", b"caf\xe9 " + b"x" * 100_000)
    text = read_transcript(recording)
    assert text is not None
    assert text.startswith("caf\ufffd x")
    assert len(text) <= 1 << 16


def test_a_transcript_is_never_a_link_or_a_pipe(tmp_path: Path) -> None:
    recording = written(tmp_path / "ana.wav")
    (tmp_path / "ana.txt").symlink_to("/etc/passwd")
    assert read_transcript(recording) is None
    (tmp_path / "ana.txt").unlink()
    os.mkfifo(tmp_path / "ana.txt")
    assert read_transcript(recording) is None
