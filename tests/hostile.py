"""Files with which a stranger who may write into the inbox can harm a spool; the same set every time.

Each function writes one member into its own folder and documents its cost for a spool without protection. All files
look well-formed by name and size, and nearly none takes space on the disk.

    python -m tests.hostile INBOX MODELS     writes the whole set, as the user who calls it
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

from tests import headers, model_files

JOB_FILE_BYTES = 1 << 20  # limits.job_file_bytes
MIB = 1 << 20
PASSAGES = 19_900  # with five values each; no job may have more than 100,000
PLAIN_DOCUMENTS = 1_000
NEVER = "never.wav"
LOUDEST = 3e38


# --- files that cost time to read ------------------------------------------------------------------------------------


def unknown_keys(folder: Path) -> None:
    """1 MiB, 1,000 documents of 100 unknown keys: 18 s in the loop, since each key is compared with all known ones."""
    _job(folder / "unknown_keys.yaml", "---\n".join(map(_unknown_keys, range(1_000))))


def unknown_speakers(folder: Path) -> None:
    """Nearly 20,000 segments with unknown speakers: 6 s in the loop, since each is compared with all known ones."""
    _job(folder / "unknown_speakers.yaml", "engine: espeak\nsegments:\n" + "".join(map(_passage, range(PASSAGES))))


def unknown_keys_that_wait(folder: Path) -> None:
    """`unknown_keys` that also waits for a missing recording: 18 s at every look, for a minute."""
    jobs = [f"text: a\nspeaker_wav: {NEVER}\n", *map(_unknown_keys, range(990))]
    _job(folder / "unknown_keys_that_wait.yaml", "---\n".join(jobs))


def unknown_speakers_that_wait(folder: Path) -> None:
    """`unknown_speakers` that also waits for a missing recording: 6 s at every look, for a minute."""
    last = f"- {{text: a, speaker_wav: {NEVER}}}\n"
    _job(folder / "waits.yaml", "engine: espeak\nsegments:\n" + "".join(map(_passage, range(PASSAGES))) + last)


def alias_bombs(folder: Path) -> None:
    """A few hundred bytes that expand to 9 to the power of 9 values: all memory."""
    names = "abcdefghi"
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(names))
    _job(folder / "in-sequence.yaml", f"{bomb}text: a\n")
    _job(folder / "in-metadata.yaml", "text: a\nmetadata:\n" + "".join(f"  {line}\n" for line in bomb.splitlines()))
    _job(folder / "of-itself.yaml", "text: a\nmetadata: &m {m: *m, n: [*m, *m]}\n")


def deep_nesting(folder: Path) -> None:
    """Lists inside lists: libyaml and the recursion of a parser crash the process."""
    _job(folder / "block.yaml", "- " * 500_000)
    _job(folder / "flow.yaml", "text: " + "[" * 1_000_000)
    _job(folder / "mappings.yaml", "text: " + "{a: " * 250_000)
    _job(folder / "deep.json", '{"metadata":' + "[" * 1_000_000)


def plain_documents(folder: Path) -> None:
    """1,000 good jobs in one file: 4.8 s in the loop while each gets its own claim."""
    _job(folder / "plain_documents.yaml", "---\n".join(f"text: Number {n}.\n" for n in range(PLAIN_DOCUMENTS)))


# --- files that cost memory or space on the disk ----------------------------------------------------------------------


def sparse_recordings(folder: Path, count: int = 100, size: int = 100 * MIB) -> None:
    """One job with different sparse recordings of 4 KiB: 10 GB to copy, 38 s in the loop, a small disk full."""
    names = [f"{number}.wav" for number in range(count)]
    for name in names:
        sparse(folder / name, size, name.encode())
    _job(folder / "sparse_recordings.yaml", _speaking_with(names))


def recordings_times_documents(folder: Path, documents: int = 1_000) -> None:
    """1,000 documents with 100 recordings each, all hard links to one, with transcripts of bytes that JSON writes as
    six: 38 GB of `claim.json`.
    """
    names = [f"{number}.w" for number in range(100)]
    for name in names:
        _write_once(folder / "0.w", b"RIFF", folder / name)
        _write_once(folder / "0.txt", b"\xff" * (64 << 10), (folder / name).with_suffix(".txt"))
    _job(folder / "recordings_times_documents.yaml", "---\n".join([_speaking_with(names)] * documents))


def huge_sparse_files(folder: Path, count: int = 20, size: int = 10 << 30) -> None:
    """Sparse files of 10 GiB named like jobs: 64 MiB of zeros each in the outbox, 1.3 GB in all."""
    for number in range(count):
        sparse(folder / f"huge-{number}.yaml", size)


def a_gigabyte(folder: Path) -> None:
    """A sparse file of 1 GB named like a JSON job: a process that reads it whole runs out of memory."""
    sparse(folder / "gigabyte.json", 1 << 30)


def ignored_names(folder: Path, count: int = 300_000) -> None:
    """300,000 files in one folder that are no jobs: 5.5 s in the loop and 789 MB, with limited memory at each
    start.
    """
    for number in range(count):
        (folder / f"{number:06d}.txt").touch()


# --- jobs that cost the worker ---------------------------------------------------------------------------------------


def long_pauses(folder: Path, items: int = 200_000, minutes: int = 500) -> None:
    """A list of 200,000 items of one letter: 17 hours of silence, because each item ends with a pause, and 8 more hours
    that it requests, which is longer than any job may be for any engine.
    """
    text = "a\n- " * items + "a" + " [pause 60s]" * minutes
    _job(folder / "long_pauses.json", json.dumps({"text": text}, separators=(",", ":")))


def long_speaker_text(folder: Path, chars: int = 750_000) -> None:
    """A transcript of 750 kB for a recording of six seconds: 4.7 GB in the worker of an engine that aligns both."""
    _wav(folder / "voice.wav", 0.2)
    words = ("word " * chars)[:chars].strip()
    _job(folder / "long_speaker_text.yaml", f"engine: faulty\ntext: a\nspeaker_wav: voice.wav\nspeaker_text: {words}\n")


def loudest_recording(folder: Path) -> None:
    """A recording in floating point with a peak of 3e38: its squares are infinite, and three attempts fail."""
    _wav(folder / "loudest.wav", LOUDEST)
    _job(folder / "loudest_recording.yaml", "engine: faulty\ntext: a\nspeaker_wav: loudest.wav\n")


# --- names and kinds of files ----------------------------------------------------------------------------------------


def no_files(folder: Path) -> None:
    """A pipe, a socket and links named like jobs: a process that opens them blocks for ever, or reads other files."""
    os.mkfifo(folder / "pipe.yaml")
    here = os.open(folder, os.O_RDONLY)  # the path may be too long for the address of a socket
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{here}/socket.yaml")
    os.close(here)
    (folder / "link.yaml").symlink_to("/etc/passwd")
    (folder / "dangling.yaml").symlink_to("nowhere.yaml")
    (folder / "link-to-a-folder.yaml").symlink_to("/etc")
    (folder / "folder").symlink_to("/etc")


def control_characters(folder: Path) -> None:
    """Names with control characters that move the cursor, break lines and reverse text in a log or on a terminal."""
    for name in (
        "\x1b[2J\x1b[31m",
        "bell\x07",
        "two\nlines",
        "back\x08\x08",
        "right\u202eleft",
        "nul\udcff",
        "\x9b31m",
    ):
        _job(folder / f"{name}.yaml", "text: A name to be careful with.\n")
        (folder / f"{name}.no-job").touch()
    (folder / "folder\r\x1b[1A").mkdir()


# --- model files -----------------------------------------------------------------------------------------------------


def list_that_holds_itself(folder: Path, models: Path) -> None:
    """A checkpoint of 2 MB whose list of contents holds itself 980,000 times: 24 s in the loop and 3.1 GB."""
    listing = b"\x80\x02]q\0(" + b"h\0" * 980_000 + b"e."
    model_files.torch_zip(models / "holds_itself.pth", listing)
    _job(folder / "list_that_holds_itself.yaml", "text: a\ncheckpoint: holds_itself.pth\n")


def large_vocabulary(folder: Path, models: Path) -> None:
    """16 MB of vocab.json next to a checkpoint of XTTS: 2.6 s in the loop and 423 MB."""
    model = headers.save(models / "large_vocabulary" / "model.safetensors", headers.xtts())
    tokens = ",".join(f'"{number:06x}":{number}' for number in range(1_040_000))
    vocabulary = f'{{"model":{{"vocab":{{{tokens}}}}}}}'
    assert 15 * MIB < len(vocabulary) < 16 * MIB
    model.with_name("vocab.json").write_text(vocabulary)
    model.with_name("config.json").write_text("{}")
    _job(folder / "large_vocabulary.yaml", "text: a\ncheckpoint: large_vocabulary/model.safetensors\n")


# --- what needs root, or a server without protected_hardlinks ---------------------------------------------------------


def hard_links(folder: Path, private: Path) -> None:
    """Hard links to a private file: its content is published, and with a `.cancel` the file becomes readable."""
    os.link(private, folder / "private.yaml")
    os.link(private, folder / "cancelled.yaml")
    (folder / "cancelled.cancel").touch()


def a_device(folder: Path) -> None:
    """A device named like a job: opening some devices has effects."""
    os.mknod(folder / "device.yaml", 0o20666, os.makedev(1, 5))  # as /dev/zero


# --- the whole set ---------------------------------------------------------------------------------------------------

IN_THE_INBOX: tuple[Callable[[Path], None], ...] = (
    unknown_keys, unknown_speakers, unknown_keys_that_wait, unknown_speakers_that_wait, alias_bombs, deep_nesting,
    plain_documents, sparse_recordings, recordings_times_documents, huge_sparse_files, a_gigabyte, ignored_names,
    long_pauses, long_speaker_text, loudest_recording, no_files, control_characters,
)  # fmt: skip
WITH_A_MODEL: tuple[Callable[[Path, Path], None], ...] = (list_that_holds_itself, large_vocabulary)


def write(inbox: Path, models: Path) -> None:
    """Write the whole set, except for what needs root: each member into its own folder in `inbox`."""
    for member in IN_THE_INBOX:
        member(_folder(inbox, member.__name__))
    for with_model in WITH_A_MODEL:
        with_model(_folder(inbox, with_model.__name__), models)


# --- parts -----------------------------------------------------------------------------------------------------------


def sparse(path: Path, size: int, beginning: bytes = b"") -> None:
    """Make a sparse file of zeros after its first bytes."""
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(size)


def _folder(inbox: Path, name: str) -> Path:
    (inbox / name).mkdir()
    return inbox / name


def _job(path: Path, text: str) -> None:
    assert len(text.encode()) <= JOB_FILE_BYTES, f"{path.name} would be set aside unread"
    path.write_text(text)


def _unknown_keys(number: int) -> str:
    return "".join(f"k{number * 100 + key:05x}: 1\n" for key in range(100))


def _passage(number: int) -> str:
    return f"- {{text: a, speaker: voice-{number}}}\n"


def _speaking_with(names: Iterable[str]) -> str:
    """A job that uses all recordings, at most 32 in each segment."""
    names = list(names)
    lists = (",".join(names[start : start + 32]) for start in range(0, len(names), 32))
    return "engine: faulty\nsegments:\n" + "".join(f"- {{text: a, speaker_wav: [{some}]}}\n" for some in lists)


def _write_once(path: Path, content: bytes, link: Path) -> None:
    """Hard-link a file; create it the first time."""
    if not path.exists():
        path.write_bytes(content)
    if not link.exists():
        link.hardlink_to(path)


def _wav(path: Path, peak: float, seconds: float = 6.0, rate_hz: int = 24_000) -> None:
    """A tone of about 440 Hz, in 32-bit floating point."""
    period = [peak * (step - 27) / 27 for step in range(55)]
    samples = struct.pack("<55f", *period) * round(seconds * rate_hz / 55)
    form = struct.pack("<HHIIHH", 3, 1, rate_hz, 4 * rate_hz, 4, 32)
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples))
    path.write_bytes(b"RIFF" + struct.pack("<I", len(head) + len(samples)) + head + samples)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
