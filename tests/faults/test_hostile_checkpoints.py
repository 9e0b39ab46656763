"""Broken and malicious model files: each is refused with a reason, no code in it runs, and work continues."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engines.base import Chunk, Device
from engines.errors import RequestRefused
from engines.xtts.engine import Xtts
from tests import headers, tiny
from tests.model_files import Runs, torch_zip
from tests.rendered import rendered
from tests.spooling import spooling

SPEAKER = "Ana Florence"


@dataclass(frozen=True)
class Hostile:
    """A way to make a model file, and the expected error.

    Attributes:
        make: Gets the path for the weights, next to the companion files of a complete model.
        words: Regular expression for the message.
        cure: Regular expression for the hint.
    """

    make: Callable[[Path], object]
    words: str
    cure: str


@pytest.fixture
def kinds(tiny_xtts: Path, tmp_path: Path) -> Mapping[str, Hostile]:
    """Each kind by its name; code that runs creates `witness`."""
    runs = Runs(tmp_path / "witness")

    def saved(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
        """The whole model, changed."""

        def make(path: Path) -> object:
            return tiny.changed(tiny_xtts, path.parent, change)

        return make

    def written(content: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(content)

    def beside(name: str, content: bytes) -> Callable[[Path], object]:
        """The whole model, with another companion file."""

        def make(path: Path) -> None:
            path.hardlink_to(tiny_xtts)
            path.with_name(name).write_bytes(content)

        return make

    vocabulary = json.loads(tiny_xtts.with_name("vocab.json").read_bytes())
    vocabulary["model"]["vocab"]["one more"] = len(vocabulary["model"]["vocab"])
    half = tiny_xtts.read_bytes()[: tiny_xtts.stat().st_size // 2]
    narrow, no_number = "gpt.text_head.weight", "gpt.gpt.h.1.mlp.c_fc.weight"
    return {
        "code": Hostile(saved(lambda state: state.update(more=runs)), "run", "Don't load"),
        "bare-code": Hostile(written(pickle.dumps(runs)), "run", "Don't load"),
        "cut-off": Hostile(written(half), "cut off", "Copy or download it again"),
        "bomb": Hostile(bomb, "zip bomb", "Don't load"),
        "shapes": Hostile(
            saved(lambda state: state.update({narrow: state[narrow][:, 1:].clone()})), narrow, "Copy it again"
        ),
        "nan": Hostile(
            saved(lambda state: state[no_number][3].fill_(float("nan"))), f"not numbers .*{no_number}", "earlier"
        ),
        "f5": Hostile(lambda path: headers.save(path, headers.F5), "F5-TTS", "([Rr]emove|[Ll]eave) `engine`"),
        "text": Hostile(written(b"This is no model.\n"), "neither safetensors nor", r"\.safetensors, or \.pt"),
        "page": Hostile(written(b"<!DOCTYPE html><html>"), "web page", "Download the file itself"),
        "empty": Hostile(written(b""), "empty", "Copy or download it again"),
        "pipe": Hostile(os.mkfifo, "not a file", "name a model file|Model files are"),
        "vocabulary": Hostile(beside("vocab.json", json.dumps(vocabulary).encode()), "161 tokens", "trained with"),
        "config": Hostile(beside("config.json", b"{" * 100_000), r"config\.json can't be read", "training run"),
        "endless": Hostile(endless(tiny_xtts), r"config\.json can't be read", "training run"),
        "speakers": Hostile(beside("speakers_xtts.pth", pickle.dumps(runs)), r"speakers_xtts\.pth .*run", "Don't load"),
    }


def bomb(path: Path) -> None:
    """A zip bomb: it unpacks to a thousand times its size."""
    with zipfile.ZipFile(torch_zip(path, pickle.dumps({})), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/0", bytes(64 << 20))


def endless(checkpoint: Path) -> Callable[[Path], object]:
    """The whole model, with a sparse config.json of 64 GB."""

    def make(path: Path) -> None:
        path.hardlink_to(checkpoint)
        os.truncate(path.with_name("config.json"), 64 << 30)

    return make


@pytest.fixture
def models(kinds: Mapping[str, Hostile], tiny_xtts: Path, tmp_path: Path) -> Path:
    """A folder with one model of each kind, and a good one."""
    folder = tmp_path / "spool/models"
    for name, kind in kinds.items():
        kind.make(tiny.beside(tiny_xtts, folder / name))
    tiny.beside(tiny_xtts, folder / "good").hardlink_to(tiny_xtts)
    return folder


@pytest.fixture
def engine() -> Iterator[Xtts]:
    xtts = Xtts()
    yield xtts
    xtts.close()


def test_the_engine_refuses_each_in_words(
    engine: Xtts, kinds: Mapping[str, Hostile], models: Path, tmp_path: Path
) -> None:
    """A good model can be loaded afterwards."""
    for name, kind in kinds.items():
        with pytest.raises(RequestRefused, match=kind.words) as caught:
            speak(engine, models / name / "model.pth")
        assert re.search(kind.cure, caught.value.hint)
    assert speak(engine, models / "good/model.pth") > 0
    assert not (tmp_path / "witness").exists()
    pickle.loads((models / "bare-code/model.pth").read_bytes())
    assert (tmp_path / "witness").exists()  # it is code


def speak(engine: Xtts, checkpoint: Path) -> int:
    """Render a sentence; the number of samples."""
    engine.load(checkpoint, Device(name="cpu", precision="float32"))
    (audio,) = rendered(engine, Chunk("Who is there?", "en", 7, speaker=SPEAKER))
    return audio.samples.size


def test_the_daemon_fails_each_of_their_jobs_and_goes_on(
    kinds: Mapping[str, Hostile], models: Path, tmp_path: Path
) -> None:
    """Manifest and ERROR.txt say why and what to do; the good jobs, first and last, are done."""
    device = {"name": "cpu", "precision": "float32"}
    with spooling(tmp_path / "spool", device=device) as spool:
        for number, name in enumerate(["good", *kinds, "good"]):
            job = {"text": "Who is there?", "engine": "xtts", "checkpoint": name, "speaker": SPEAKER, "language": "en"}
            spool.drop(f"{number:02}-{name}.json", json.dumps(job))
        run = spool.once()
        assert run.returncode == 1
        assert run.stderr.count("worker started") == 1
        failed = {name: f"{number + 1:02}-{name}.failed" for number, name in enumerate(kinds)}
        assert spool.results() == sorted([*failed.values(), "00-good", f"{len(kinds) + 1:02}-good"])
        for name, result in failed.items():
            error = spool.manifest(result)["error"]
            told = f"{error['message']} {error['hint']}", (spool.outbox / result / "ERROR.txt").read_text()
            for words in (kinds[name].words, kinds[name].cure):
                assert all(re.search(words, text) for text in told), (name, words, told)
            assert error["retryable"] is False
    assert not (tmp_path / "witness").exists()
