"""What is in the files: wrong, hostile, oddly encoded, with recordings that come late, grow, lead out or never come."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sounds import recording
from tests.spooling import PATIENCE_S, PLUGINS, ROOT, Spool, below, environment, spooling, until

NEVER_S = 3600.0
BOUNDARY = ROOT / "tests" / "crash" / "boundary"

BILLION_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = "- " * 40_000
TOO_DEEP = "lists and mappings are nested more than 32 levels deep"
OUT = "is outside the spool's folders"
BAD: dict[str, tuple[str | bytes, *tuple[str, ...]]] = {
    # name: content, and words that ERROR.txt must have
    "no-yaml.yaml": ("text: [\n", "line 2: this is not YAML"),
    "no-json.json": ('{"text": "a",}\n', "line 1: this is not JSON"),
    "no-job.yaml": ("# only a comment\n", "there is no job in this file"),
    "no-mapping.yaml": ("just words\n", "line 1"),
    "no-text.yaml": ("language: pt\n", "text"),
    "two-texts.yaml": ("text: a\nsegments: [{text: b}]\n", "segments"),
    "unknown-key.yaml": ("text: a\nlangauge: pt\n", "line 2: langauge: ", "did you mean `language`?"),
    "unknown-deep-key.yaml": ("segments:\n- {text: a, pause_afte_ms: 3}\n", "pause_after_ms"),
    "wrong-values.yaml": ("text: a\npriority: 11\nseed: -1\nnot_before: soon\n", "2: prio", "3: seed", "4: not_"),
    "twice.yaml": ("text: a\ntext: b\n", "line 2"),
    "tag.yaml": ("text: !!python/object/apply:os.system ['touch owned']\n", "tag"),
    "template.yaml": ("%TAG ! tag:yaml.org,2002:python/\n---\ntext: !object/apply:os.system ['touch owned']\n", "%TAG"),
    "aliases.yaml": (BILLION_LAUGHS + "text: a\n", "alias"),
    "self.yaml": ("text: a\nmetadata: &m {m: *m}\n", "line 2"),
    "deep.yaml": (DEEP, TOO_DEEP),
    "deep-flow.yaml": ("text: " + "[" * 100_000, TOO_DEEP),
    "deep.json": ('{"metadata":' + "[" * 100_000, TOO_DEEP),
    "huge-number.yaml": ("text: a\nseed: " + "9" * 100_000 + "\n", "line 2"),
    "infinite.json": ('{"text": "a", "seed": NaN}', "line 1"),
    "utf-32.yaml": ("text: a\n".encode("utf-32"), "UTF-32"),
    "latin-1.yaml": ("text: Olá\n".encode("latin-1"), "not UTF-8 (byte 0xe1 in line 1)"),
    "zeros.yaml": (b"text: a\0\0\0\n", "zero bytes"),
    "escape.yaml": (b"text: \x1b[31mred\n", "\\x1b"),
    "picture.yaml": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "UTF-8"),
    "up.yaml": ("text: a\nspeaker_wav: ../../secret.wav\n", "line 2: speaker_wav", "`..` is not allowed"),
    "up-in-segment.yaml": ("segments: [{text: a, speaker_wav: r/../../../secret.wav}]\n", "`..` is not allowed"),
    "absolute.yaml": ("text: a\nspeaker_wav: /etc/passwd\n", OUT),
    "device.yaml": ("text: a\nspeaker_wav: /dev/zero\n", OUT),
    "link.yaml": ("text: a\nspeaker_wav: link-out.wav\n", OUT),
    "link-folder.yaml": ("text: a\nspeaker_wav: link-out/secret.wav\n", OUT),
    "state.yaml": ("text: a\nspeaker_wav: .voicespool/lock\n", OUT),
    "folder.yaml": ("text: a\nspeaker_wav: a-folder.wav\n", "is not a file"),
    "up-checkpoint.yaml": ("text: a\ncheckpoint: ../../secret\n", "checkpoint", "`..` is not allowed"),
    "up-text.yaml": ("text_file: ../../etc/passwd\n", "line 1: text_file", "`..` is not allowed"),
    "later.yaml": ("text_file: story.txt\n", "line 1: text_file: not available in this version"),
}  # fmt: skip


def error_text(spool: Spool, name: str) -> str:
    return (spool.result(f"{name}.failed") / "ERROR.txt").read_text()


def stem(name: str) -> str:
    return name.rpartition(".")[0]


# --- wrong -----------------------------------------------------------------------------------------------------------


def test_bad_files_fail_in_plain_words(tmp_path: Path) -> None:
    """Dropped at once between good ones: each fails alone, says where and why, keeps its bytes, and harms nobody."""
    with spooling(tmp_path / "spool") as spool:
        (spool.folder / "secret.wav").write_bytes(b"secret")
        (spool.inbox / "link-out.wav").symlink_to(spool.folder / "secret.wav")
        (spool.inbox / "link-out").symlink_to(spool.folder)
        (spool.inbox / "a-folder.wav").mkdir()
        process = spool.start()
        spool.drop("good-before.yaml")
        for name, (content, *_) in BAD.items():
            spool.drop(name, content)
        spool.drop("good-after.yaml")
        for name, (content, *words) in BAD.items():
            folder = next(one for one in numbered(spool, stem(name)) if (one / name).exists())
            text = (folder / "ERROR.txt").read_text()
            assert all(word in text for word in words), text
            assert "\n\nCorrect the job file" in text
            assert (folder / name).read_bytes() == (content.encode() if isinstance(content, str) else content)
            error = json.loads((folder / "manifest.json").read_bytes())["error"]
            assert error["code"] == "job_invalid"
            assert error["problems"]
            assert not error["retryable"]
        assert all(spool.manifest(name)["status"] == "done" for name in ("good-before", "good-after"))
        assert process.poll() is None
        assert not below(spool.folder, "owned")
        for path in below(spool.outbox):
            assert path.is_dir() or path.read_bytes() != b"secret"


def numbered(spool: Spool, name: str) -> list[Path]:
    """All failed results of a name, waited for: `deep.yaml` and `deep.json` share one."""
    most = sum(stem(other) == name for other in BAD)
    until(lambda: len(list(spool.outbox.glob(f"{name}.failed*"))) == most, lambda: f"{name}; {spool.log()[-2000:]}")
    return list(spool.outbox.glob(f"{name}.failed*"))


def test_a_file_that_crashes_libyaml_is_there_at_the_start(spool: Spool) -> None:
    """80 KB of `- - - -`, on which libyaml's loader ends the process: it fails as a job, and the daemon starts."""
    crash = [sys.executable, "-c", "import sys, yaml; yaml.load(sys.stdin, yaml.CSafeLoader)"]
    done = subprocess.run(crash, input=DEEP.encode(), capture_output=True, check=False, timeout=PATIENCE_S)
    assert done.returncode != 0, "the loader could not read it either"
    (spool.inbox / "deep.yaml").write_text(DEEP)
    spool.drop("good.yaml")
    spool.start()
    assert TOO_DEEP in error_text(spool, "deep")
    assert spool.manifest("good")["status"] == "done"
    assert spool.stop() == 0


def test_a_gigabyte_is_not_read(spool: Spool) -> None:
    """A file of 1 GB fails for its size at once and without taking memory. Its beginning is kept, the next one runs."""
    with (spool.inbox / "big.yaml").open("wb") as file:
        file.write(b"text: |\n")
        file.truncate(1 << 30)
    process = spool.start()
    spool.drop("good.yaml")
    assert "larger than limits.job_file_bytes (1048576 bytes)" in error_text(spool, "big")
    assert (spool.outbox / "big.failed" / "big.yaml").read_bytes() == b"text: |\n".ljust(4096, b"\0")
    assert spool.manifest("good")["status"] == "done"
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert peak is not None
    assert int(peak[1]) < 200 << 10


@pytest.mark.parametrize("deaths", [3, pytest.param(10, marks=pytest.mark.long)])
def test_a_file_whose_reading_kills_the_daemon(tmp_path: Path, deaths: int) -> None:
    """Kill -9 while it is read, so often in a row: it fails unread, the others run; mended, it is read again."""
    environ = {
        "PYTHONPATH": os.pathsep.join(map(str, (BOUNDARY, ROOT, PLUGINS))),
        "KILL_AT": "pwrite:poison.yaml+",  # right after the note on disk that it is being read
    }
    with spooling(tmp_path / "spool", **({"limits": {"daemon_deaths": deaths}} if deaths != 10 else {})) as spool:
        spool.drop("poison.yaml", "text: Poison.\n")
        spool.drop("zzz-good.yaml", "text: Good.\n")
        for _ in range(deaths):
            killed = spool.once(**environ)
            assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert "poison.failed" not in spool.results()
        done = spool.once(**environ)
        assert done.returncode == 1, done.stderr
        assert f"the daemon died {deaths} times in a row while reading this file" in error_text(spool, "poison")
        assert (spool.outbox / "poison.failed" / "poison.yaml").read_text() == "text: Poison.\n"
        assert spool.manifest("zzz-good")["status"] == "done"
        spool.drop("poison.yaml", "text: Mended.\n")
        assert spool.once().returncode == 0
        assert spool.manifest("poison")["request"]["text"] == "Mended."


# --- oddly encoded ---------------------------------------------------------------------------------------------------

BOM = "\N{BYTE ORDER MARK}"
ENCODED = {
    "plain.yaml": ("text: {}\nlanguage: pt\n", "utf-8"),
    "bom.yaml": (BOM + "text: {}\nlanguage: pt\n", "utf-8"),
    "crlf.yaml": ("text: {}\r\nlanguage: pt\r\n", "utf-8"),
    "cr.yaml": ("text: {}\rlanguage: pt\r", "utf-8"),
    "bom-crlf.yml": (BOM + "text: {}\r\nlanguage: pt\r\n", "utf-8"),
    "utf-16-le.yaml": (BOM + "text: {}\r\nlanguage: pt\r\n", "utf-16-le"),
    "utf-16-be.yaml": (BOM + "text: {}\nlanguage: pt\n", "utf-16-be"),
    "bom.json": (BOM + '{{"text": "{}", "language": "pt"}}', "utf-8"),
    "utf-16.JSON": (BOM + '{{"text": "{}", "language": "pt"}}', "utf-16-le"),
    "no-last-newline.yaml": ("language: pt\ntext: {}", "utf-8"),
    "document-marks.yaml": ("%YAML 1.2\n---\ntext: {}\nlanguage: pt\n...\n", "utf-8"),
}
TEXT = "Olá, avó \N{PARTY POPPER}, às 12:30 não há \N{LATIN SMALL LETTER A}\N{COMBINING TILDE}."


def test_encodings_and_line_ends(tmp_path: Path) -> None:
    """UTF-8 and UTF-16, with and without BOM, LF, CRLF and CR, written in place and moved in: all say the same."""
    with spooling(tmp_path / "spool") as spool:
        spool.start()
        forms = enumerate(ENCODED.items())
        files = {f"{number}-{name}": form.format(TEXT).encode(code) for number, (name, (form, code)) in forms}
        files["escapes.json"] = json.dumps({"text": TEXT, "language": "pt"}).encode("ascii")
        for number, (name, data) in enumerate(files.items()):
            if number % 2:
                spool.drop(name, data)
            else:
                (spool.inbox / name).write_bytes(data)
        audio = set()
        for name, data in files.items():
            manifest = spool.manifest(stem(name))
            assert manifest["status"] == "done", manifest
            assert manifest["request"]["text"] == TEXT, name
            assert manifest["request"]["language"] == "pt", name
            assert (spool.outbox / stem(name) / name).read_bytes() == data
            audio.add(manifest["audio"][0]["sha256"])
        assert len(audio) == 1


# --- recordings ------------------------------------------------------------------------------------------------------

SPEAKS = "text: Hello.\nspeaker_wav: {}\n"
PATIENT = {"quiet_s": 0.2, "scan_s": 0.5, "companions_s": NEVER_S}


def waiting(spool: Spool, name: str) -> str:
    """Why status.json says that a file waits; "" when it does not."""
    return next((one["reason"] for one in spool.status().get("waiting", ()) if one["file"] == name), "")


def voices_of(spool: Spool, name: str) -> list[str]:
    """Digests of the recordings that a result was spoken with."""
    manifest = spool.manifest(name)
    assert manifest["status"] == "done", manifest
    return [file["sha256"] for file in manifest["voice"]["files"]]


def test_recordings_that_come_late_or_grow(tmp_path: Path) -> None:
    """A job waits for its recording to come, to be filled and to be closed, and speaks with the whole of it."""
    whole = recording()
    digest = hashlib.sha256(whole).hexdigest()
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.start()
        (spool.folder / "voices").mkdir(exist_ok=True)
        (spool.inbox / "empty.wav").touch()
        with (spool.inbox / "grows.wav").open("wb", buffering=0) as growing:
            growing.write(whole[:2000])
            for name in ("moved", "grows", "empty", "voice"):
                spool.drop(f"{name}.yaml", SPEAKS.format(f"{name}.wav"))
            until(lambda: "is not there" in waiting(spool, "moved.yaml"))
            until(lambda: "is not there" in waiting(spool, "voice.yaml"))
            until(lambda: "is still being written" in waiting(spool, "grows.yaml"))
            until(lambda: "is still being written" in waiting(spool, "empty.yaml"))
            growing.write(whole[2000:])
        (spool.inbox / "empty.wav").write_bytes(whole)
        spool.drop("moved.wav", whole)
        (spool.folder / "voices" / "voice.wav").write_bytes(whole)
        for name in ("moved", "grows", "empty", "voice"):
            assert voices_of(spool, name) == [digest]


def test_a_job_that_has_nothing_to_wait_for_goes_ahead(tmp_path: Path) -> None:
    """A job that waits for its recording keeps no other one."""
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        spool.drop("aaa-waits.yaml", SPEAKS.format("never.wav"))
        spool.drop("zzz-goes.yaml")
        spool.start()
        assert spool.manifest("zzz-goes")["status"] == "done"
        until(lambda: "never.wav: it is not there" in waiting(spool, "aaa-waits.yaml"))


def test_recordings_that_never_come_or_never_end(tmp_path: Path) -> None:
    """After ready.companions_s the job is claimed and fails, by the recording's name; half a voice is never used."""
    ready = PATIENT | {"companions_s": 1.0}
    with spooling(tmp_path / "spool", ready=ready) as spool, (spool.inbox / "grows.wav").open("wb") as growing:
        growing.write(bytes(1000))
        growing.flush()
        (spool.inbox / "empty.wav").touch()
        spool.start()
        spool.drop("never.yaml", SPEAKS.format("radio/never.wav"))
        spool.drop("grows.yaml", SPEAKS.format("grows.wav"))
        spool.drop("empty.yaml", SPEAKS.format("empty.wav"))
        assert "line 2: speaker_wav: the recording radio/never.wav is neither next to the job file" in error_text(
            spool, "never"
        )
        assert "grows.wav is still being written" in error_text(spool, "grows")
        assert "empty.wav is empty" in error_text(spool, "empty")


def test_where_recordings_may_lie(tmp_path: Path) -> None:
    """Beside the job before voices/; through links that stay inside; elsewhere only under allowed_roots."""
    with spooling(tmp_path / "spool", allowed_roots=["shared"]) as spool:
        voices, shared = spool.folder / "voices", spool.folder / "shared"
        places = {
            "beside": spool.inbox / "radio" / "both.wav",
            "voices": voices / "both.wav",
            "only": voices / "deep" / "only.wav",
            "shared": shared / "team.wav",
        }
        recordings = {name: recording(6.0 + number) for number, name in enumerate(places)}
        for name, path in places.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(recordings[name])
        (spool.inbox / "radio" / "link.wav").symlink_to(voices / "deep" / "only.wav")
        (voices / "to-shared.wav").symlink_to(shared / "team.wav")
        jobs = {
            "radio/near": ("both.wav", "beside"),
            "far": ("both.wav", "voices"),
            "deep": ("deep/only.wav", "only"),
            "radio/linked": ("link.wav", "only"),
            "rooted": (str(shared / "team.wav"), "shared"),
            "linked-root": ("to-shared.wav", "shared"),
        }
        for name, (named, _) in jobs.items():
            spool.drop(f"{name}.yaml", SPEAKS.format(named))
        assert spool.once().returncode == 0
        for name, (_, place) in jobs.items():
            assert voices_of(spool, name) == [hashlib.sha256(recordings[place]).hexdigest()], name


def test_the_recording_as_it_was_when_the_job_was_claimed(tmp_path: Path) -> None:
    """A queued job keeps its voice though the recording is overwritten, and removed, before it is rendered."""
    with spooling(tmp_path / "spool", ready=PATIENT) as spool:
        as_it_was = recording()
        dropped = spool.drop("ana.wav", as_it_was)
        (spool.inbox / "PAUSE").touch()
        spool.start()
        spool.drop("paused.yaml", SPEAKS.format("ana.wav"))
        until(lambda: spool.status()["counts"]["queued"] == 1)
        dropped.write_bytes(b"something else")
        dropped.unlink()
        (spool.inbox / "PAUSE").unlink()
        assert voices_of(spool, "paused") == [hashlib.sha256(as_it_was).hexdigest()]


# --- forged ----------------------------------------------------------------------------------------------------------

EVIL = '\x1b]0;owned\x07\x1b[2J\r\n{"event": "forged"}\u202e\u2028\x85\x9b31m[red]x[/red]'
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
FORGED = {
    "text": {"text": EVIL},
    "key": {"text": "a", EVIL: 1},
    "engine": {"text": "a", "engine": EVIL},
    "language": {"text": "a", "language": EVIL},
    "recording": {"text": "a", "speaker_wav": EVIL},
    "speaker": {"text": "a", "speaker": EVIL},
    "setting": {"text": "a", "settings": {EVIL: EVIL}},
    "value": {"text": "a", "priority": EVIL, "not_before": EVIL, "output": {"format": EVIL}},
    "checkpoint": {"text": "a", "checkpoint": EVIL},
    "metadata": {"text": "a", "metadata": {EVIL: EVIL}},
    "engine-says": {"text": EVIL, "settings": {"fault": "raise"}},
    "engine-prints": {"text": "a", "settings": {"fault": "rubbish"}},
}


def drop_what_forges(spool: Spool) -> None:
    """Hostile words in each place, each in a job file with a hostile name, and files that are not jobs."""
    name = EVIL.replace("/", "")
    for place, content in FORGED.items():
        spool.drop(f"{place}{name}.json", json.dumps(content))
    spool.drop(f"{name}.txt", "ignored")
    spool.drop(f"{name}/empty{name}.yaml", b"")
    (spool.inbox / f"fifo{name}.yaml").symlink_to("nowhere")


def test_nothing_from_a_stranger_steers_a_terminal(tmp_path: Path) -> None:
    """Names, texts and values full of escapes and line ends: log, status, ERROR.txt and manifest show them harmless."""
    with spooling(tmp_path / "spool") as spool:
        drop_what_forges(spool)
        done = spool.once()
        assert done.returncode == 1
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert not any(line["event"] == "forged" for line in lines)
        assert len(spool.results()) == len(FORGED)
        said = {"log": done.stderr, "status": spool.command("status").stdout}
        said |= {"json": spool.command("status", "--json").stdout}
        said |= {str(path): path.read_text() for path in below(spool.outbox, "ERROR.txt")}
        said |= {str(path): path.read_text() for path in below(spool.outbox, "manifest.json")}
        said |= {"names": "\n".join(path.name for path in below(spool.outbox))}
        assert len(said) > 20
        for where, text in said.items():
            assert not STEERS.search(text), where
            assert "\n{" not in text or where in {"log", "json"} or where.endswith("manifest.json"), where
        assert "[red]" in said["status"], "markup is shown as it is"


def test_nothing_from_a_stranger_steers_the_terminal_that_the_daemon_runs_on(tmp_path: Path) -> None:
    """The same on a real terminal, where the log has colours: only the colours are escapes."""
    with spooling(tmp_path / "spool") as spool:
        drop_what_forges(spool)
        spool.write_config()
        terminal, side = pty.openpty()
        words = [sys.executable, "-m", "watcher", "--config", str(spool.config_file), "run", "--once"]
        with subprocess.Popen(words, env=environment(TERM="xterm"), stdout=side, stderr=side, stdin=side) as process:
            os.close(side)
            shown = read_terminal(terminal)
            assert process.wait(PATIENCE_S) == 1
        without_colours = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n")
        assert re.search(r"\d\d done ", without_colours)
        assert not STEERS.search(without_colours.replace("\n", " "))
        assert "\x1b[31mred" not in shown
        lines = [line for line in without_colours.splitlines() if line]
        stamp = re.compile(r"\d\d:\d\d:\d\d| {9}\S")  # a long line goes on under its event
        assert [line for line in lines if not stamp.match(line)] == [], "every line is the spool's own"


def read_terminal(terminal: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()
