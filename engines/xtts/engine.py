"""The engine for XTTS-v2: voice cloning in 17 languages, with the base model or fine-tuned checkpoints.

Tokenizer and encoders are those of coqui-tts; loading, generation and vocoder are in `engines/xtts/net`, for batches,
with the same result as calling coqui-tts once per chunk. Checkpoints are read without unpickling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engines import installing
from engines.base import Device, EngineInfo, Option
from engines.checkpoints import base_models, requirements
from engines.checkpoints.inspection import Checkpoint
from engines.device import runtime
from engines.errors import EngineMissing, RequestRefused
from engines.neural_engine import NeuralEngine, Opened, accept, prepare, version_of

if TYPE_CHECKING:
    from engines.xtts.net.model import XttsFiles

PACKAGE = "coqui-tts"
RATE_HZ = 24000
SPEAKERS = "speakers_xtts.pth"

# The longest text in characters, by language: `VoiceBpeTokenizer.char_limits` of coqui-tts.
MAX_CHARS_IN = MappingProxyType({
    "ar": 166, "cs": 186, "de": 253, "en": 250, "es": 239, "fr": 273, "hi": 150, "hu": 224, "it": 213,
    "ja": 71, "ko": 95, "nl": 251, "pl": 224, "pt": 203, "ru": 182, "tr": 226, "zh": 82,
})  # fmt: skip

_OWN = "(default: the checkpoint's config.json)"
OPTIONS = (
    Option("speed", float, 1.0, "1.0 is the model's own speed", 0.5, 2.0),
    Option("temperature", float, None, f"sampling temperature: higher is livelier and less stable {_OWN}", 0.01, 2.0),
    Option("repetition_penalty", float, None, f"higher prevents stuttering and long silences {_OWN}", 0.1, 20.0),
    Option("top_k", int, None, f"sample from this many most probable tokens; 0 is all {_OWN}", 0, 1000),
    Option(
        "top_p", float, None,
        f"nucleus sampling: the smallest set of tokens with total probability of at least this {_OWN}", 0.01, 1.0,
    ),
    Option("do_sample", bool, True, "false always takes the most probable token"),
    Option("num_beams", int, 1, "beam search: slow, one chunk at a time, in float32", 1, 8),
    Option("length_penalty", float, None, f"above 0 favours longer speech; only with num_beams {_OWN}", -10.0, 10.0),
    Option("gpt_cond_len", int, None, f"seconds of the recordings that shape the manner of speaking {_OWN}", 1, 60),
    Option("gpt_cond_chunk_len", int, None, f"seconds of them per chunk, at most gpt_cond_len {_OWN}", 1, 60),
    Option("max_ref_len", int, None, f"seconds of each recording that shape the sound of the voice {_OWN}", 1, 60),
    Option("sound_norm_refs", bool, None, f"normalise the level of recordings first {_OWN}"),
)  # fmt: skip


class Xtts(NeuralEngine):
    """One instance holds one model, from `load` to `close`; `XttsSpeech` renders with it."""

    @classmethod
    def info(cls) -> EngineInfo:
        """Languages, options and version; how to install it if it is missing."""
        return EngineInfo(
            name="xtts",
            title="XTTS-v2, voice cloning",
            licence="code MPL-2.0; model Coqui Public Model License, non-commercial",
            library=PACKAGE,
            version=_version(),
            missing=None if _version() else _install(),
            sample_rate_hz=RATE_HZ,
            languages=tuple(sorted(MAX_CHARS_IN)),
            options=OPTIONS,
            clones_voices=True,
            needs_voice=True,
            takes_checkpoints=True,
            model="XTTS-v2 (`voicespool models pull xtts`)",
            device="as configured",
            max_chars=250,
            max_chars_in=MAX_CHARS_IN,
        )

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        """Map a BCP-47 tag to a language by its primary subtag: `pt-BR` -> `pt`, `cmn` -> `zh`, `is` -> None."""
        primary = tag.partition("-")[0].lower()
        primary = {"cmn": "zh"}.get(primary, primary)
        return primary if primary in MAX_CHARS_IN else None

    def open(self, checkpoint: Path | None, device: Device) -> Opened:
        """Load a checkpoint or the base model; see `load`.

        Args:
            checkpoint: A whole model (`.pth`, `.pt` or `.safetensors`, also with a trainer's state), or a LoRA adapter
                of PEFT, which is merged into the base model; None for the base model.
            device: As configured.

        Raises:
            EngineMissing, RequestRefused, OutOfMemory.
        """
        if _version() is None:
            raise EngineMissing("xtts is not installed", _install())
        parts = _parts(checkpoint, device.models)
        here = prepare(device)

        from engines.xtts.net.model import XttsModel
        from engines.xtts.net.speech import XttsSpeech

        with runtime.too_small(f"the model does not fit into the memory of {here.device}"):
            model = XttsModel(_files(parts), here.device, here.torch_dtype)
        model.defaults = _within_bounds(model.defaults)
        facts = {
            "device": here.device,
            "precision": here.precision,
            "profile": device.profile,
            "architecture": parts.described.architecture,
            "step": parts.described.step,
            "validation_loss": parts.described.validation_loss,
            "settings": {**model.defaults, "speed": 1.0, "do_sample": True, "num_beams": 1},
            "warnings": [*parts.warnings],
        }
        return Opened(XttsSpeech(model, here.device, parts.speakers), facts, parts.described.path)


@dataclass(frozen=True, slots=True)
class Parts:
    """The files that make up a model.

    Attributes:
        described: The checkpoint that the job names, or the base model's.
        whole: The weights: the same file, or the base model's if `described` is an adapter.
        config, vocab: As in `engines.xtts.net.model.XttsFiles`.
        speakers: speakers_xtts.pth, or None.
        warnings: A sentence for each file of the base model that is used instead of the checkpoint's own.
    """

    described: Checkpoint
    whole: Checkpoint
    config: Path | None
    vocab: Path
    speakers: Path | None
    warnings: tuple[str, ...] = ()


def _parts(checkpoint: Path | None, models: Path | None) -> Parts:
    described = _accept(checkpoint or base_models.weights("xtts", models), models)
    whole = _accept(base_models.weights("xtts", models), models) if described.is_adapter else described
    base = base_models.find("xtts", models)
    warnings: list[str] = []

    def companion(own: Path | None, name: str) -> Path | None:
        of_base = base / name if base is not None else None
        if own is not None or of_base is None or not of_base.is_file():
            return own
        # An adapter uses the base model anyway, so there is nothing to warn about.
        if not described.is_adapter:
            warnings.append(f"there is no {name} next to {described.path.name}; used that of the base model")
        return of_base

    # After this, vocab.json is known to exist, next to the checkpoint or to the base model.
    requirements.check(requirements.of(described), models)
    vocab = companion(whole.vocab, "vocab.json")
    config = companion(whole.config, "config.json")
    assert vocab is not None  # noqa: S101 - just checked
    if config is None:
        warnings.append(f"there is no config.json next to {described.path.name}; used the values of XTTS-v2")
    # No warning for the voices: fine-tuning leaves the latents of the base model's speakers usable.
    speakers = whole.speakers
    if speakers is None and base is not None and (base / SPEAKERS).is_file():
        speakers = base / SPEAKERS
    return Parts(described, whole, config, vocab, speakers, tuple(warnings))


def _accept(path: Path, models: Path | None) -> Checkpoint:
    return accept(path, "xtts", "XTTS-v2", models)


def _files(parts: Parts) -> XttsFiles:
    from engines.xtts.net.model import XttsFiles

    adapter = (parts.described.path, parts.described.tensors) if parts.described.is_adapter else None
    return XttsFiles(parts.whole.path, parts.whole.tensors, parts.config, parts.vocab, adapter)


def _within_bounds(defaults: Mapping[str, Any]) -> dict[str, object]:
    """Check the settings of config.json against the bounds that job files have.

    Raises:
        RequestRefused: a value is out of bounds.
    """
    options = {option.name: option for option in OPTIONS}
    return {name: _allowed(options[name], value) for name, value in defaults.items()}


def _allowed(option: Option, value: Any) -> object:
    low, high = option.minimum, option.maximum
    # The bounds come first: NaN and infinity fail them, and int() of those would raise.
    if low is None or high is None or (low <= value <= high and option.kind(value) == value):
        return option.kind(value)
    kind = "a whole number" if option.kind is int else "a number"
    raise RequestRefused(
        f"config.json of the checkpoint has {option.name}: {value!r:.40}; it must be {kind} from {low:g} to {high:g}",
        "Fix it in that file.",
    )


def _install() -> str:
    return installing.for_extra("xtts", PACKAGE, "torch", "torchaudio")


def _version() -> str | None:
    return version_of(PACKAGE, "TTS", "torch", "torchaudio")
