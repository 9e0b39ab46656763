"""XTTS-v2: clones a voice from seconds of it, in seventeen languages; the base model and fine-tuned ones.

The model is coqui-tts's; loading, decoding and the vocoder are ours (`engines/neural`), several times faster and with
the same result. Checkpoints are opened for reading alone, and nothing in them is run.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engines import base_models, checkpoints, runtime
from engines.base import Audio, Chunk, Device, EngineInfo, Option
from engines.checkpoints import Checkpoint
from engines.errors import EngineError, EngineMissing, OutOfMemory, RequestRefused

if TYPE_CHECKING:
    from engines.neural.xtts_model import Files
    from engines.neural.xtts_speech import Speech

PACKAGE = "coqui-tts"
INSTALL = "pip install 'voicespool[xtts]'"
RATE_HZ = 24000
SPEAKERS = "speakers_xtts.pth"

# Characters that the library's tokenizer allows in one go, by language.
LONGEST = MappingProxyType({
    "ar": 166, "cs": 186, "de": 253, "en": 250, "es": 239, "fr": 273, "hi": 150, "hu": 224, "it": 213,
    "ja": 71, "ko": 95, "nl": 251, "pl": 224, "pt": 203, "ru": 182, "tr": 226, "zh": 82,
})  # fmt: skip

_OWN = "default: what the checkpoint's config.json says"
OPTIONS = (
    Option("speed", float, 1.0, "1.0 is as the model speaks", 0.5, 2.0),
    Option("temperature", float, None, f"higher is livelier and less sure; {_OWN}", 0.01, 2.0),
    Option("repetition_penalty", float, None, f"higher keeps it from stuttering and long silences; {_OWN}", 0.1, 20.0),
    Option("top_k", int, None, f"choose among so many likeliest tokens; 0 among all; {_OWN}", 0, 1000),
    Option("top_p", float, None, f"choose among the likeliest that together are so likely; {_OWN}", 0.01, 1.0),
    Option("do_sample", bool, True, "false always takes the likeliest token"),
    Option("num_beams", int, 1, "search with so many beams: slow, one chunk at a time, in float32", 1, 8),
    Option("length_penalty", float, None, f"above 0 favours longer speech; with num_beams alone; {_OWN}", -10.0, 10.0),
    Option("gpt_cond_len", int, None, f"seconds of the recordings that shape the manner of speaking; {_OWN}", 1, 60),
    Option("gpt_cond_chunk_len", int, None, f"seconds listened to at a time, at most gpt_cond_len; {_OWN}", 1, 60),
    Option("max_ref_len", int, None, f"seconds of each recording that shape the sound of the voice; {_OWN}", 1, 60),
    Option("sound_norm_refs", bool, None, f"bring recordings to one level first; {_OWN}"),
)


class Xtts:
    """One instance holds one model, from `load` to `close`."""

    def __init__(self) -> None:
        self._speech: Speech | None = None
        self._facts: dict[str, Any] = {}
        self._checkpoint: Path | None = None
        self._digest: threading.Thread | None = None

    @classmethod
    def info(cls) -> EngineInfo:
        """What XTTS can do here; says how to install it where it is not."""
        return EngineInfo(
            name="xtts",
            title="XTTS-v2, voice cloning",
            licence="code MPL-2.0; model Coqui Public Model License, non-commercial",
            library=PACKAGE,
            version=_version(),
            missing=None if _installed() else INSTALL,
            sample_rate_hz=RATE_HZ,
            languages=tuple(sorted(LONGEST)),
            options=OPTIONS,
            clones_voices=True,
            needs_voice=True,
            takes_checkpoints=True,
            model="XTTS-v2 (`voicespool models pull xtts`)",
            device="as configured",
            max_chars=250,
            max_chars_in=LONGEST,
        )

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        """`pt-BR` -> `pt`, `zh-Hant-TW` -> `zh`, `cmn` -> `zh`, `is` -> None."""
        primary = tag.partition("-")[0].lower()
        primary = {"cmn": "zh"}.get(primary, primary)
        return primary if primary in LONGEST else None

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        """Load a checkpoint, or the base model.

        Args:
            checkpoint: A whole model (`.pth`, `.pt`, `.safetensors`; a trainer's file too) or a LoRA adapter in PEFT's
                layout, which is merged into the base model.

        Returns:
            Facts for the manifest. While chunks are rendered they may change: read them afterwards.

        Raises:
            EngineMissing: the library, the base model or the card asked for is not there.
            RequestRefused: the checkpoint can't be used; says why, and what to do.
            OutOfMemory: it does not fit.
        """
        if not _installed():
            raise EngineMissing("xtts is not installed", INSTALL)
        if self._speech is not None:
            self.close()
        parts = _parts(checkpoint)
        self._checkpoint, self._device, self._facts = checkpoint, device, {}
        why = ""
        try:
            self._open(parts, device)
        except OutOfMemory as error:
            if not device.fallback_cpu:
                raise
            why = error.message
        if why:  # not sooner: an error that is being handled keeps alive what was loaded by then
            self._move_to_cpu(why)
        self._note_digest(parts.described.path)
        return self._facts

    def _open(self, parts: Parts, device: Device) -> None:
        runtime.quiet()
        runtime.prepare_torchaudio()
        here = runtime.choose(device)
        import torch

        from engines.neural.xtts_model import Model
        from engines.neural.xtts_speech import Speech

        torch.set_num_threads(runtime.threads())
        gc.freeze()  # what was imported stays: going through it again and again takes a third of the time of a load
        try:
            model = Model(_files(parts), here.device, here.torch_dtype)
        except Exception as error:
            if runtime.is_out_of_memory(error):
                raise OutOfMemory(f"the model does not fit into the memory of {here.device}") from None
            raise
        model.defaults = _within_bounds(model.defaults)
        self._speech = Speech(model, here.device, parts.speakers)
        self._facts |= {
            "device": here.device,
            "precision": here.precision,
            "architecture": parts.described.architecture,
            "step": parts.described.step,
            "validation_loss": parts.described.validation_loss,
            "settings": {**model.defaults, "speed": 1.0, "do_sample": True, "num_beams": 1},
            "warnings": [*parts.warnings],
        }

    def render(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, Audio] | None]:
        """Speak chunks, many at a time, in the order in which they get done; None is a sign of life.

        Raises:
            RequestRefused: a speaker that the model does not have, or no voice at all.
            OutOfMemory: not even one chunk at a time fits.
        """
        if self._speech is None:
            raise EngineError("xtts was asked to speak before it was loaded")
        left, why = dict(enumerate(chunks)), ""
        try:
            yield from self._speak(left)
        except OutOfMemory as error:
            if not self._device.fallback_cpu or self._facts["device"] == "cpu":
                raise
            why = error.message
        if why:
            self._move_to_cpu(why)
            yield from self._speak(left)
        if self._digest is not None:
            self._digest.join()

    def _speak(self, left: dict[int, Chunk]) -> Iterator[tuple[int, Audio] | None]:
        """Speak what is left; what is done is taken out."""
        assert self._speech is not None  # noqa: S101 - render() looks
        numbers = list(left)
        for spoken in self._speech.speak([left[number] for number in numbers]):
            if spoken is None:
                yield None
                continue
            index, samples = spoken
            del left[numbers[index]]
            yield numbers[index], Audio(samples, self._speech.rate_hz)

    def _move_to_cpu(self, why: str) -> None:
        self._speech = None
        runtime.release(str(self._facts.get("device", self._device.name)))
        parts = _parts(self._checkpoint)
        precision = "auto" if self._device.precision == "float16" else self._device.precision  # no processor's
        self._open(parts, Device(name="cpu", precision=precision))
        words = f"{why}; the CPU went on, as device.fallback_cpu says"
        self._facts["warnings"] = [*parts.warnings, words]

    def close(self) -> None:
        """Give the model's memory back."""
        device = str(self._facts.get("device", "cpu"))
        self._speech = None
        if self._digest is not None:
            self._digest.join()
            self._digest = None
        runtime.release(device)

    def _note_digest(self, path: Path) -> None:
        """A file of 5 GB takes seconds to digest, once: meanwhile it can speak."""
        facts = self._facts

        def note() -> None:
            try:
                facts["sha256"] = checkpoints.digest(path)
            except OSError as error:
                facts["warnings"] = [*facts["warnings"], f"the SHA-256 of {path.name} is not known: {error}"]

        self._digest = threading.Thread(target=note, name="digest", daemon=True)
        self._digest.start()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model is put together from.

    Attributes:
        described: The file that the job names, or the base model's.
        whole: The weights: the same, or what an adapter is merged into.
        config, vocab, speakers: Files; see `engines.neural.xtts_model.Files`.
        warnings: What was taken from elsewhere, in sentences.
    """

    described: Checkpoint
    whole: Checkpoint
    config: Path | None
    vocab: Path
    speakers: Path | None
    warnings: tuple[str, ...] = ()


def _parts(checkpoint: Path | None) -> Parts:
    base = base_models.find("xtts") if checkpoint is not None else base_models.need("xtts")
    described = _inspected(checkpoint if checkpoint is not None else _weights(base))
    whole = described
    if described.is_adapter:
        base = base_models.need("xtts")
        whole = _inspected(_weights(base))
    warnings: list[str] = []

    def companion(own: Path | None, name: str) -> Path | None:
        there = base / name if base is not None else None
        if own is not None or there is None or not there.is_file():
            return own
        if not described.is_adapter:
            warnings.append(f"{name} is not beside {described.path.name}; that of the base model was used")
        return there

    vocab = companion(whole.vocab, "vocab.json")
    config = companion(whole.config, "config.json")
    if vocab is None:
        raise EngineMissing(
            f"there is no vocab.json beside {described.path.name}, and no base model to take it from",
            "Copy vocab.json from the training run into that folder, or run `voicespool models pull xtts`.",
        )
    if config is None:
        warnings.append(f"there is no config.json beside {described.path.name}; the values of XTTS-v2 were used")
    speakers = whole.speakers
    if speakers is None and base is not None and (base / SPEAKERS).is_file():
        speakers = base / SPEAKERS
    return Parts(described, whole, config, vocab, speakers, tuple(warnings))


def _weights(folder: Path | None) -> Path:
    names = base_models.BASE_MODELS["xtts"].weights
    found = [folder / name for name in names if folder is not None and (folder / name).is_file()]
    if not found:
        raise EngineMissing(*_GONE)
    return found[0]


_GONE = ("the base model was removed meanwhile", "Run `voicespool models pull xtts`.")


def _inspected(path: Path) -> Checkpoint:
    try:
        found = checkpoints.inspect(path)
    except OSError as error:
        raise RequestRefused(
            f"the checkpoint {path.name} can't be read: {error.strerror}",
            "`voicespool checkpoints list` shows those that can.",
        ) from None
    if found.engine not in (None, "xtts"):
        raise RequestRefused(
            f"{path.name} is {found.architecture}, no XTTS-v2 model", "Leave `engine` out: the checkpoint decides it."
        )
    if not found.loads:
        raise RequestRefused(f"the checkpoint {path.name} will not load: {found.why_not}", found.cure)
    return found


def _files(parts: Parts) -> Files:
    from engines.neural.xtts_model import Files

    adapter = (parts.described.path, parts.described.tensors) if parts.described.is_adapter else None
    return Files(parts.whole.path, parts.whole.tensors, parts.config, parts.vocab, adapter)


def _within_bounds(said: Mapping[str, Any]) -> dict[str, object]:
    """What config.json says of the options, by their names: as a job could say it.

    Raises:
        RequestRefused: a number that no job could give.
    """
    options = {option.name: option for option in OPTIONS}
    return {name: _allowed(options[name], value) for name, value in said.items()}


def _allowed(option: Option, value: Any) -> object:
    least, most = option.minimum, option.maximum
    if least is None or most is None or (least <= value <= most and option.kind(value) == value):
        return option.kind(value)
    kind = "a whole number" if option.kind is int else "a number"
    raise RequestRefused(
        f"the checkpoint's config.json says {option.name}: {value!r:.40}; it can be {kind} from {least:g} to {most:g}",
        "Mend it in that file.",
    )


@cache
def _installed() -> bool:
    return all(find_spec(name) is not None for name in ("TTS", "torch", "torchaudio"))


@cache
def _version() -> str | None:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return None
