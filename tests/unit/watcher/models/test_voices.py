"""What `voicespool voices list` finds in voices/, and which voices it knows to be built in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import headers
from tests.depriving import as_an_ordinary_user
from tests.hub import release, weights
from tests.sounds import save, speech
from tests.spooling import ROOT
from watcher.config.settings import Config, load
from watcher.models import voices as room
from watcher.models.voices import Voice


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of a spool with an empty folder of recordings; no base model of this machine's user is found."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TTS_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "voices").mkdir()
    (tmp_path / "config.yaml").touch()
    return load(tmp_path / "config.yaml")


def listed(config: Config) -> dict[str, Voice]:
    return {one.name: one for one in room.recordings(config)}


def error(voice: Voice) -> str:
    """The one error."""
    (sentence,) = voice.recording.errors
    return sentence


def test_folders_come_in_natural_order(config: Config) -> None:
    """A folder's own recordings before those of its subfolders, 9 before 10; words beside a recording are seen."""
    for name in ("team-10/a.wav", "team-9/b.wav", "ana-10.wav", "ana-9.WAV", "zoe.mp3"):
        (config.voices / name).parent.mkdir(exist_ok=True)
        (config.voices / name).touch()
    (config.voices / "zoe.txt").write_text("What Zoe says.")
    found = listed(config)
    assert list(found) == ["ana-9.WAV", "ana-10.wav", "zoe.mp3", "team-9/b.wav", "team-10/a.wav"]
    assert [name for name, voice in found.items() if voice.has_transcript] == ["zoe.mp3"]


def test_other_files_are_not_listed(config: Config) -> None:
    """Transcripts, notes, and what is hidden: file managers and sync tools leave such things everywhere."""
    for name in ("ana.txt", "README.md", ".ana.wav", "._ana.wav", ".trash/ana.wav", "wav"):
        (config.voices / name).parent.mkdir(exist_ok=True)
        (config.voices / name).touch()
    assert listed(config) == {}


def test_nothing_is_opened_that_a_job_may_not_open(config: Config, tmp_path: Path) -> None:
    """Links that lead out, of files and of folders, and pipes are named; links inside are recordings like others."""
    elsewhere = tmp_path / "elsewhere"
    save(elsewhere / "secret.wav", speech(8.0))
    (config.voices / "out.wav").symlink_to(elsewhere / "secret.wav")
    (config.voices / "out").symlink_to(elsewhere)
    (config.voices / "lost.wav").symlink_to("nowhere.wav")
    (config.voices / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(config.voices / "pipe.wav")
    save(config.voices / "team" / "ana.wav", speech(8.0))
    (config.voices / "in.wav").symlink_to("team/ana.wav")
    found = listed(config)
    assert found["in.wav"].recording.duration_s == 8.0
    refused = {name: error(voice) for name, voice in found.items() if voice.recording.errors}
    assert set(refused) == {"out.wav", "out", "lost.wav", "loop.wav", "pipe.wav"}
    assert "is outside" in refused["out.wav"]
    assert "is outside" in refused["out"]
    assert "not a file" in refused["pipe.wav"]
    allowing = config.model_copy(update={"allowed_roots": (elsewhere,)})
    assert listed(allowing)["out.wav"].recording.errors == ()


def test_what_a_job_would_be_refused_for_is_said(config: Config) -> None:
    """A recording larger than the configuration allows."""
    save(config.voices / "ana.wav", speech(8.0))
    limits = config.limits.model_copy(update={"recording_bytes": 1000})
    assert "limits.recording_bytes" in error(listed(config.model_copy(update={"limits": limits}))["ana.wav"])


def test_what_can_not_be_read_is_said(config: Config, tmp_path: Path) -> None:
    """A file, a subfolder; the rest is listed all the same."""
    save(config.voices / "ana.wav", speech(8.0))
    save(config.voices / "locked.wav", speech(8.0)).chmod(0)
    (config.voices / "locked").mkdir(mode=0)
    code = (
        "import sys; from pathlib import Path\n"
        "from watcher.config.settings import load; from watcher.models.voices import recordings\n"
        "for voice in recordings(load(Path(sys.argv[1]))): print(voice.name, *voice.recording.errors)"
    )
    words = [*as_an_ordinary_user(), sys.executable, "-c", code, str(tmp_path / "config.yaml")]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "ana.wav"
    assert [line.split(" ")[0] for line in said] == ["ana.wav", "locked.wav", "locked"]
    assert all("Permission denied" in line for line in said[1:])


def test_a_folder_that_is_not_there_is_said(config: Config) -> None:
    """Not taken for an empty one."""
    config.voices.rmdir()
    assert "No such file" in error(listed(config)["."])


def test_a_huge_folder_is_not_listed_to_its_end(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left out is said."""
    for number in range(12):
        (config.voices / f"{number}.wav").touch()
    monkeypatch.setattr(room, "MAX_FILES", 10)
    assert list(listed(config)) == [*(f"{number}.wav" for number in range(10)), "."]


# --- built-in voices ------------------------------------------------------------------------------------------------


def test_a_missing_base_model_says_what_brings_its_voices(config: Config) -> None:
    """And one whose file of voices is missing or damaged says that; else its voices are those named in the file."""
    assert "voicespool models pull xtts" in room.of_base_model("xtts", config.models).note
    folder = config.models / "xtts"
    folder.mkdir(parents=True)
    for name, data in release(weights()).items():
        (folder / name).write_bytes(data)
    damaged = room.of_base_model("xtts", config.models)
    assert damaged.speakers == ()
    assert "speakers_xtts.pth can't be read" in damaged.note
    (folder / "speakers_xtts.pth").unlink()
    assert "has no speakers_xtts.pth" in room.of_base_model("xtts", config.models).note
    parts = ("gpt_cond_latent", "speaker_embedding")
    tensors = {f"{name}.{part}": (1, 2) for name in ("Zofija Kendrick", "Dr. Rui") for part in parts}
    headers.save(folder / "speakers_xtts.pth", tensors)
    assert room.of_base_model("xtts", config.models).speakers == ("Zofija Kendrick", "Dr. Rui")


def test_every_engine_with_voices_is_there(config: Config) -> None:
    """espeak's, as it says them itself."""
    known = {one.engine: one for one in room.built_in(config.models)}
    assert "Annie" in known["espeak"].speakers
    assert known["espeak"].note == ""
