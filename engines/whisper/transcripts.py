"""Transcripts by Whisper for recordings without one, if the configuration has `transcribe: whisper`.

Results are cached by recording and model, so each recording is transcribed once. Nothing is downloaded.
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
"""Whisper's window; no engine needs a longer transcript."""

WHISPER = BaseModel(
    name="whisper",
    title="Whisper",
    architecture="a Whisper",
    licence=Licence("MIT", "MIT License", "https://github.com/openai/whisper/blob/main/LICENSE", ("Any use.",)),
    repository="openai/whisper-large-v3-turbo",  # the model that f5-tts downloads
    revision="",
    files=(),  # not downloaded by `models pull`: any Whisper model works
    weights=("model.safetensors",),
    needed=("config.json", "generation_config.json", "tokenizer_config.json"),
    folder="whisper",
)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript by Whisper.

    Attributes:
        text: In one line.
        language: Whisper's code of the language that it detected; "" if the model has only one.
    """

    text: str
    language: str


def model(models: Path | None) -> Path:
    """Folder of the Whisper model: `whisper/` in the folder of models, else in the cache of the Hugging Face hub.

    Args:
        models: As for `base_models.find`.

    Raises:
        EngineMissing: transformers or the model is not installed; says what to do.
    """
    if version_of("transformers", "transformers", "torch", "torchaudio") is None:
        install = installing.for_extra("f5", "transformers", "torch", "torchaudio")
        raise EngineMissing("can't run Whisper: transformers is not installed", install)
    folders = list(base_models.candidate_folders(WHISPER, models))
    for folder in folders:
        if not base_models.fault(WHISPER, folder):
            return folder
    faults = (f"; {str(folder)!r} is not usable: {base_models.fault(WHISPER, folder)}" for folder in folders)
    raise EngineMissing(
        f"no Whisper model for `transcribe: whisper` on this machine{''.join(faults)}",
        f"Download one: run `hf download openai/whisper-small --local-dir {WHISPER.folder}` in models/. Or set "
        "`speaker_text`, or remove `transcribe` from config.yaml.",
    )


def transcribe(recording: Path, shown: str, sha256: str, device: Device) -> Transcript:
    """Transcribe a recording, or take its transcript from the cache. The model is unloaded afterwards.

    Args:
        recording: Its path.
        shown: Its name for messages, safe to print.
        sha256: Of its content, hex.
        device: Where to run, as configured, and where models are.

    Raises:
        EngineMissing: As `model`.
        RequestRefused: The recording can't be read, is longer than 30 s, or has no words.
        OutOfMemory: Whisper does not fit into memory.
    """
    folder = model(device.models)
    key = f"{sha256}-{digests.digest(folder / WHISPER.weights[0])}"
    transcript = _cached(key)
    if transcript is None:
        transcript = _transcribed(recording, shown, folder, device)
        _keep(key, transcript)
    if not any(map(str.isalnum, transcript.text)):
        raise RequestRefused(f"Whisper found no words in {shown}", "Write its transcript yourself, or record it again.")
    return transcript


def _transcribed(recording: Path, shown: str, folder: Path, device: Device) -> Transcript:
    from engines.voices import recordings

    samples, rate_hz = recordings.read(recording, MAX_S + 1)  # (channels, n); a second more shows that it is too long
    if samples.shape[1] > MAX_S * rate_hz:
        raise RequestRefused(
            f"{shown} is longer than {MAX_S:g} s, the limit of Whisper",
            "Cut it to 6 to 12 s, or write its transcript yourself.",
        )
    chosen = prepare(device).device
    from engines.whisper import net  # torch is configured by prepare()

    for name in dict.fromkeys((chosen, "cpu")):  # the CPU once, if it is chosen already
        try:
            with runtime.too_small(f"Whisper does not fit into the memory of {name}"):
                return Transcript(*net.transcribe(folder, samples.mean(0), rate_hz, name))
        except OutOfMemory:
            if name == "cpu" or not device.fallback_cpu:
                raise
        finally:
            runtime.release(name)
    raise AssertionError  # the CPU, last, returns or raises


def _cached(key: str) -> Transcript | None:
    folder = cache.folder("transcripts")
    try:
        return None if folder is None else Transcript(**json.loads((folder / f"{key}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _keep(key: str, transcript: Transcript) -> None:
    """Cache a transcript; without a writable cache the recording is transcribed again the next time."""
    folder = cache.folder("transcripts")
    if folder is None:
        return
    scratch = folder / f".{key}-{os.getpid()}"
    try:
        scratch.write_text(json.dumps(asdict(transcript)), "utf-8")
        scratch.replace(folder / f"{key}.json")
    except OSError:
        return
