"""What is said in a recording, where nobody has written it down: Whisper listens, if the configuration says so.

The words are kept by recording and model, so that each recording is listened to once. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from engines import installing
from engines.base import Device
from engines.checkpoints import base_models
from engines.checkpoints.base_models import BaseModel, Licence
from engines.device import runtime
from engines.errors import EngineMissing, OutOfMemory, RequestRefused
from engines.neural_engine import prepare, version_of
from files import cache, digests

MAX_S = 30.0
"""Whisper hears so much at a time; no engine here needs more."""

WHISPER = BaseModel(
    name="whisper",
    title="Whisper",
    architecture="a Whisper",
    licence=Licence("MIT", "MIT License", "https://github.com/openai/whisper/blob/main/LICENSE", ("Any use.",)),
    repository="openai/whisper-large-v3-turbo",  # the one that f5-tts downloads
    revision="",
    files=(),  # `models pull` has none: any Whisper will do
    weights=("model.safetensors",),
    needed=("config.json", "generation_config.json", "tokenizer_config.json"),
    folder="whisper",
)


@dataclass(frozen=True, slots=True)
class Heard:
    """What Whisper has heard.

    Attributes:
        text: One line, as Whisper writes it.
        language: Whisper's code of what it took for the language; "" where its model knows one alone.
    """

    text: str
    language: str


def model(models: Path | None = None) -> Path:
    """The folder of the Whisper to use: `whisper/` in models, else in the cache of the Hugging Face hub.

    Args:
        models: As for `base_models.find`.

    Raises:
        EngineMissing: The library or the model is not there; says what to do.
    """
    if version_of("transformers", "transformers", "torch", "torchaudio") is None:
        install = installing.for_extra("f5", "transformers", "torch", "torchaudio")
        raise EngineMissing("Whisper can't run here: transformers is not installed", install)
    folders = list(base_models.places(WHISPER, models))
    for folder in folders:
        if not base_models.fault(WHISPER, folder):
            return folder
    wrong = (f"; {str(folder)!r} does not hold it: {base_models.fault(WHISPER, folder)}" for folder in folders)
    raise EngineMissing(
        f"`transcribe: whisper` is configured, and there is no Whisper on this machine{''.join(wrong)}",
        f"Put one into models/: `hf download openai/whisper-small --local-dir {WHISPER.folder}` there. Or give "
        "`speaker_text`, or take `transcribe` out of config.yaml.",
    )


def hear(recording: Path, shown: str, sha256: str, device: Device) -> Heard:
    """Have Whisper write down what is said in a recording. Its memory is given back afterwards.

    Args:
        shown: The recording's name as the subject of sentences, safe to print.
        sha256: Of its content, hex.
        device: Where to run.

    Raises:
        EngineMissing: As for `model`.
        RequestRefused: The recording is longer than 30 s, or has no words.
        OutOfMemory: Whisper does not fit.
    """
    folder = model()
    key = f"{sha256}-{digests.digest(folder / WHISPER.weights[0])}"
    heard = _kept(key)
    if heard is None:
        heard = _heard(recording, shown, folder, device)
        _keep(key, heard)
    if not any(map(str.isalnum, heard.text)):
        raise RequestRefused(f"Whisper hears no words in {shown}", "Write down what is said in it, or record it again.")
    return heard


def _heard(recording: Path, shown: str, folder: Path, device: Device) -> Heard:
    from engines.voices import recordings

    samples, rate_hz = recordings.read(recording, MAX_S + 1)
    if samples.shape[1] > MAX_S * rate_hz:
        raise RequestRefused(
            f"{shown} is longer than the {MAX_S:g} s that Whisper listens to",
            "Cut it to 6 to 12 s, or write down what is said in it.",
        )
    here = prepare(device)
    from engines.whisper.net import transcribe

    for where in dict.fromkeys((here.device, "cpu")):
        try:
            with runtime.too_small(f"Whisper does not fit into the memory of {where}"):
                return Heard(*transcribe(folder, samples.mean(0), rate_hz, where))
        except OutOfMemory:
            if where == "cpu" or not device.fallback_cpu:
                raise
        finally:
            runtime.release(where)
    raise AssertionError  # the CPU was last


def _kept(key: str) -> Heard | None:
    folder = cache.folder("transcripts")
    try:
        return None if folder is None else Heard(**json.loads((folder / f"{key}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _keep(key: str, heard: Heard) -> None:
    """For the next time; trouble with the disk stops nobody."""
    folder = cache.folder("transcripts")
    if folder is None:
        return
    scratch = folder / f".{key}-{os.getpid()}"
    try:
        scratch.write_text(json.dumps(asdict(heard)), "utf-8")
        scratch.replace(folder / f"{key}.json")
    except OSError:
        return
