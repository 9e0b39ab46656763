"""docs/FINETUNED.md, done as it says."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import training_runs
from tests.sounds import recording
from tests.spooling import ROOT, Spool, spooling

GUIDE = (ROOT / "docs/FINETUNED.md").read_text("utf-8")
SOURCES = (
    *(ROOT / "engines").rglob("*.py"), ROOT / "files/allowed_paths.py",
    ROOT / "jobs/spec/checkpoint_names.py", ROOT / "jobs/spec/engine_choice.py",
)  # fmt: skip
PATIENCE_S = 180


def blocks(kind: str) -> list[str]:
    """The fenced blocks of the guide whose first line says `kind`."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```$", GUIDE, re.M | re.S)


def follow(spool: Spool, commands: list[str], folders: Mapping[str, Path]) -> None:
    """Run commands of the guide in the spool's folder, by its own configuration but for shorter waits."""
    environ = os.environ | {name: str(path) for name, path in folders.items()}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    spool.config = {"ready": spool.config["ready"]}
    spool.write_config()
    done = subprocess.run(
        ["sh", "-eu", "-c", "\n".join(commands)], cwd=spool.folder, env=environ,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=["as the trainer writes it", pytest.param("by the trainer", marks=pytest.mark.long)])
def run(request: pytest.FixtureRequest, tiny_xtts: Path, tmp_path: Path) -> Path:
    """A finished training, made up or really made."""
    training = tmp_path / "run/training"
    if request.param == "by the trainer":
        command = [sys.executable, "-m", "tests.train_xtts", str(training)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return Path(done.stdout.splitlines()[-1])
    return training_runs.trainers(tiny_xtts.parent, training)


@pytest.fixture
def studio(tiny_xtts: Path, tmp_path: Path) -> Spool:
    """A spool with a base model, and jobs for the models that the guide's own job is not for."""
    with spooling(tmp_path / "studio") as spool:
        shutil.copytree(tiny_xtts.parent, spool.folder / "models/xtts-v2", copy_function=os.link)
        (spool.folder / "voices").mkdir()
        for name in ("rui", "eva"):
            job = {"text": "Bom dia.", "language": "pt-BR", "checkpoint": name, "speaker_wav": "rui.wav"}
            spool.drop(f"{name}.json", json.dumps(job))
        return spool


def test_the_commands_work_as_written(run: Path, studio: Spool, tiny_xtts: Path, tmp_path: Path) -> None:
    """From each kind of training to speech; the manifest says what the guide says."""
    base = tiny_xtts.parent if run.name == training_runs.RUN else run.parent / training_runs.ORIGINALS
    (tmp_path / "clip.wav").write_bytes(recording())
    folders = {
        "RUN": run,
        "READY": training_runs.web_uis(run, base, tmp_path / "ready"),
        "LORA": training_runs.adapters(tiny_xtts.parent, tmp_path / "lora_adapter"),
        "CLIP": tmp_path / "clip.wav",
    }
    follow(studio, blocks("sh runnable"), folders)
    assert studio.results() == ["eva", "news", "rui"]
    shown = json.loads(blocks("json")[0])["engine"]
    told = studio.manifest("news")["engine"]
    assert told["checkpoint"]["name"] == shown["checkpoint"]["name"]
    assert set(told["checkpoint"]) == set(shown["checkpoint"])
    assert told["settings"].items() >= shown["settings"].items()
    assert (studio.folder / "models/anna/best_model.pth").exists()
    assert not (studio.folder / "models/anna/checkpoint_10000.pth").exists()
    spoken = {studio.manifest(name)["engine"]["checkpoint"]["architecture"] for name in ("eva", "rui")}
    assert spoken == {"LoRA adapter for XTTS-v2", "XTTS-v2"}


def test_the_commands_for_f5_work_as_written(spool: Spool, tiny_f5: Path, tmp_path: Path) -> None:
    """From what its web page leaves to speech, without a base model; the manifest says what the guide says."""
    vocoder = tiny_f5.parents[1] / "vocos-mel-24khz"
    shutil.copytree(vocoder, spool.folder / "models" / vocoder.name, copy_function=os.link)
    (spool.folder / "voices").mkdir()
    (tmp_path / "clip.wav").write_bytes(recording())
    (tmp_path / "words.txt").write_text("Quem fala tanto em seis segundos, fala depressa, e logo acaba.", "utf-8")
    checkpoints, data = training_runs.f5_trainers(tmp_path / "f5")
    follow(spool, blocks("sh runnable f5"), {
        "CKPTS": checkpoints, "DATA": data, "CLIP": tmp_path / "clip.wav", "WORDS": tmp_path / "words.txt",
    })  # fmt: skip
    shown = json.loads(blocks("json f5")[0])["engine"]
    told = spool.manifest("reading")["engine"]
    for key in ("name", "variant", "vocabulary"):
        assert told[key] == shown[key]
    assert told["settings"].items() >= shown["settings"].items()
    assert told["checkpoint"].items() >= {**shown["checkpoint"], "sha256": told["checkpoint"]["sha256"]}.items()


def test_every_message_is_one_of_the_programs() -> None:
    """What the table of failures quotes, but for names and numbers, is in the sources."""
    sources = [path.read_text("utf-8") for path in SOURCES]
    said = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    table = GUIDE.partition("## When it does not load")[2].partition("\n## ")[0]
    quoted = [re.split(r" \| ", line[2:])[0] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(quoted) > 20
    missing = [
        message
        for message in quoted
        if not all(any(piece.strip() in text for text in said) for piece in message.split("…") if piece.strip())
    ]
    assert missing == []
