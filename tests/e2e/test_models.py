"""`voicespool models`, as its users meet it: the real command against a hub on this machine."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import tiny_f5
from engines.checkpoints.base_models import BIGVGAN
from engines.whisper.transcripts import WHISPER
from tests import tiny_whisper
from tests.hub import F5, VOCOS, XTTS, Hub, f5_release, hub, place, release, vocos_release, weights
from tests.small_release import words
from tests.spooling import PATIENCE_S, Spool, environment

CACHES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TTS_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
SETTINGS = ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy")


@dataclass
class Setting:
    """A spool without any model, and a hub that has them all."""

    spool: Spool
    hub: Hub
    files: dict[str, bytes]

    @property
    def folder(self) -> Path:
        return self.spool.folder / "models" / "xtts-v2"

    def models(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.spool.command("models", *arguments)

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """`voicespool models ...`, still running."""
        self.spool.write_config()
        return subprocess.Popen(
            [*self.spool.prefix, sys.executable, "-m", "watcher", "--config", str(self.spool.config_file), "models",
             *arguments],
            env=environment(), cwd=self.spool.folder, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    for name in CACHES + SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    files, f5, vocos = release(weights()), f5_release(), vocos_release()
    for name, those in (("xtts", files), ("f5", f5), ("vocos", vocos)):
        place(tmp_path / "published" / name, those)
    with hub(files, (F5, f5), (VOCOS, vocos)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        yield Setting(Spool(tmp_path / "spool", prefix=words(tmp_path / "published")), served, files)


def test_pull_once_then_know_it(setting: Setting) -> None:
    """Downloaded, found, not downloaded again, verified, and its damage seen."""
    done = setting.models("pull", "xtts", "--accept-licence")
    assert (done.returncode, done.stdout) == (0, f"{setting.folder}\n")
    assert sorted(os.listdir(setting.folder)) == sorted([*setting.files, "pulled.json"])
    setting.hub.asked.clear()
    again = setting.models("pull", "xtts", "--verify")
    assert (again.returncode, again.stdout) == (0, f"{setting.folder}\n")
    assert "is there already" in again.stderr
    listed, *_others = json.loads(setting.models("list", "--json").stdout)["models"]
    assert (listed["folder"], listed["not_usable"]) == (str(setting.folder), {})
    place(setting.folder, {"vocab.json": b"?"})
    damaged = setting.models("pull", "xtts", "--verify")
    assert damaged.returncode == 4
    assert "not as published: vocab.json" in damaged.stderr
    assert setting.hub.asked == []


def test_f5_comes_with_its_vocoder(setting: Setting) -> None:
    """One command, both licences, each folder with its record; what is there is not fetched again."""
    models = setting.spool.folder / "models"
    refused = setting.models("pull", "f5")
    assert refused.returncode == 2
    for term in ("Attribution-NonCommercial", "MIT License", "to accept them"):
        assert term in refused.stderr
    assert setting.hub.asked == []
    done = setting.models("pull", "f5", "--accept-licence")
    assert (done.returncode, done.stdout) == (0, f"{models / 'f5-tts-v1'}\n")
    listed = {one["name"]: one for one in json.loads(setting.models("list", "--json").stdout)["models"]}
    assert (listed["f5"]["needs"], listed["f5"]["folder"]) == (["vocos"], str(models / "f5-tts-v1"))
    assert listed["vocos"]["folder"] == str(models / "vocos-mel-24khz")
    licences = {
        name: json.loads((models / name / "pulled.json").read_bytes())["licence"]["title"]
        for name in ("f5-tts-v1", "vocos-mel-24khz")
    }
    assert licences == {"f5-tts-v1": F5.licence.title, "vocos-mel-24khz": VOCOS.licence.title}
    setting.hub.asked.clear()
    shutil.rmtree(models / "vocos-mel-24khz")
    again = setting.models("pull", "f5", "--accept-licence", "--verify")
    assert again.returncode == 0
    assert set(setting.hub.names()) == set(vocos_release())
    assert f"{F5.title} is there already" in again.stderr
    place(models / "vocos-mel-24khz", {"config.yaml": b"?"})
    assert "not as published: config.yaml" in setting.models("pull", "f5", "--verify").stderr


def test_what_users_bring_themselves_is_listed_where_it_is(setting: Setting) -> None:
    """Whisper, and BigVGAN, with half of its files and with both; nothing is said of them where they are not."""
    assert not {"BigVGAN", "Whisper"} & set(setting.models("list").stdout.split())
    models = setting.spool.folder / "models"
    tiny_whisper.build(models / WHISPER.folder, "Good morning.")
    tiny_f5.build_bigvgan(models / BIGVGAN.folder)
    (models / BIGVGAN.folder / "config.json").unlink()
    told = setting.models("list").stdout
    assert re.search(
        rf"^whisper +Whisper .*\n    licence: MIT License\n    folder: models/{WHISPER.folder}$", told, re.M
    )
    assert f"    not usable: models/{BIGVGAN.folder}: " in told
    assert "config.json" in told.partition("bigvgan  BigVGAN")[2]
    tiny_f5.build_bigvgan(models / BIGVGAN.folder)
    told = setting.models("list").stdout
    title = re.escape(BIGVGAN.title)
    assert re.search(rf"^bigvgan +{title} .*\n    licence: MIT.*\n    folder: models/{BIGVGAN.folder}$", told, re.M)


def test_interrupted_download_goes_on(setting: Setting) -> None:
    """Ctrl-C: 130, nothing to be seen in models/; the same command then asks for the rest alone. One at a time."""
    setting.hub.stall["model.pth"] = 200_000
    first = setting.start("pull", "xtts", "--accept-license")
    assert setting.hub.stalled.wait(PATIENCE_S)
    second = setting.models("pull", "xtts", "--accept-license")
    assert second.returncode == 75
    assert "another download" in second.stderr
    begun = setting.spool.folder / "models" / ".pull-xtts" / XTTS.revision / "model.pth"
    first.send_signal(signal.SIGINT)
    _out, said = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 130, said
    assert "the same command resumes the download" in said
    kept = begun.stat().st_size
    assert 0 < kept <= 200_000
    assert "`voicespool models pull xtts` (1 MB of it downloaded)" in setting.models("list").stdout
    setting.hub.asked.clear()
    assert setting.models("pull", "xtts", "--accept-licence").returncode == 0
    assert [request[:2] for request in setting.hub.asked] == [("model.pth", kept)]


def test_licence_is_not_accepted_by_silence(setting: Setting) -> None:
    """Without a terminal and without the flag nothing is downloaded; the flag is named."""
    done = setting.models("pull", "xtts")
    assert done.returncode == 2
    assert "--accept-licence" in done.stderr
    assert "Coqui Public Model License" in done.stderr
    assert setting.hub.asked == []


@pytest.mark.parametrize(("answer", "code"), [("n\n", 4), ("y\n", 0)])
def test_licence_is_asked_for_at_a_terminal(setting: Setting, answer: str, code: int) -> None:
    """No means that nothing is downloaded; yes is put on record."""
    ours, terminal = pty.openpty()
    try:
        process = setting.start("pull", "xtts", stdin=terminal)
        os.write(ours, answer.encode())
        _out, said = process.communicate(timeout=PATIENCE_S)
    finally:
        os.close(ours)
        os.close(terminal)
    assert process.returncode == code, said
    assert "Non-commercial use only" in said
    assert bool(setting.hub.asked) == setting.folder.exists() == (code == 0)
    if code == 0:
        assert json.loads((setting.folder / "pulled.json").read_bytes())["licence"]["accepted_by"] == "question"


def test_wrong_name_names_the_nearest(setting: Setting) -> None:
    done = setting.models("pull", "xtss", "--accept-licence")
    assert done.returncode == 2
    assert "did you mean `xtts`?" in done.stderr


def test_hub_that_is_not_there(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence and what to do, no traceback; exit code of a missing model."""
    with hub({}) as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.address)
    done = setting.models("pull", "xtts", "--accept-licence")
    assert done.returncode == 4
    assert "Connection refused" in done.stderr
    assert "Traceback" not in done.stderr
