"""F5-TTS and E2-TTS: clone a voice from seconds of it and their transcript; any checkpoint, told by its shapes.

The weights are those that f5-tts trains; loading, the network and the vocoder are ours (`engines/neural`), several
times faster and with the same result. Checkpoints are opened for reading alone, and nothing in them is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from engines import installing
from engines.base import Device, EngineInfo, Option
from engines.checkpoints import base_models, f5_vocabulary, inspection, requirements
from engines.device import runtime
from engines.errors import EngineMissing
from engines.neural_engine import NeuralEngine, Opened, inspected, prepare, version_of

PACKAGE = "f5-tts"
RATE_HZ = 24000
OPTIONS = (
    Option("speed", float, 1.0, "speaking rate; 1.0 is that of the recording", 0.3, 2.0),
    Option("nfe_step", int, None, "evaluations of the network (32); fewer are faster, 7 is often enough", 1, 128),
    Option("cfg_strength", float, 2.0, "classifier-free guidance; 0 is twice as fast, but less exact", 0.0, 10.0),
    Option("sway_sampling_coef", float, -1.0, "below 0, more of the steps are early ones", -1.0, 1.0),
    Option(
        "cross_fade_s", float, 0.15, "cross-fade, in seconds, between the parts of a sentence that was split", 0.0, 1.0
    ),
    Option("fix_duration_s", float, None, "length of each chunk, in seconds, whatever its text", 0.3, 30.0),
)
STEPS, FEWER_STEPS = 32, 16
_CODES = """
    aa ab af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en
    eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja
    jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb
    nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq
    sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
LANGUAGES = tuple(_CODES.split())
"""ISO 639-1: which of them a model speaks depends on what it was trained with."""


class F5(NeuralEngine):
    """One instance holds one model, from `load` to `close`."""

    spares = True

    @classmethod
    def info(cls) -> EngineInfo:
        """What F5 can do here; says how to install it where it is not."""
        return EngineInfo(
            name="f5",
            title="F5-TTS and E2-TTS, voice cloning",
            licence="code MIT; published models CC-BY-NC 4.0, non-commercial",
            library=PACKAGE,
            version=_version(),
            missing=None if _version() else _install(),
            sample_rate_hz=RATE_HZ,
            languages=LANGUAGES,
            options=OPTIONS,
            clones_voices=True,
            needs_voice=True,
            needs_transcript=True,
            takes_checkpoints=True,
            model="F5-TTS v1 Base, English and Chinese (`voicespool models pull f5`)",
            device="as configured",
            max_chars=160,
            max_chars_in={"ja": 60, "ko": 70, "zh": 60},
        )

    @classmethod
    def match_language(cls, tag: str) -> str | None:
        """`pt-BR` -> `pt`, `cmn-Hans` -> `zh`, `xyz` -> None."""
        primary = tag.partition("-")[0].lower()
        primary = {"cmn": "zh", "yue": "zh"}.get(primary, primary)
        return primary if primary in LANGUAGES else None

    def open(self, checkpoint: Path | None, device: Device) -> Opened:
        """Load a checkpoint, or the base model; see `load`."""
        if _version() is None:
            raise EngineMissing("f5 is not installed", _install())
        found = inspected(checkpoint or base_models.weights("f5"), "f5", "F5-TTS or E2-TTS")
        here = prepare(device)
        requirements.check(requirements.of(found))
        variant = found.variant
        assert found.sizes is not None and variant is not None and found.vocab is not None  # noqa: PT018, S101 - it loads
        is_low = device.profile == "low_vram"
        is_small = is_low and here.device != "cpu"

        from engines.f5.net.model import F5Files, F5Model
        from engines.f5.net.speech import About, F5Speech
        from engines.f5.net.symbols import Symbols

        files = F5Files(found.path, found.tensors, found.sizes, base_models.need(variant.vocoder), variant.vocoder)
        with runtime.too_small(f"the model does not fit into the memory of {here.device}"):
            model = F5Model(files, here.device, here.torch_dtype, "cpu" if is_small else here.device)
        symbols = Symbols(f5_vocabulary.read(found.vocab).numbers(found.sizes.vocabulary))
        defaults = {**_DEFAULTS, "nfe_step": FEWER_STEPS if is_low else STEPS}
        about = About(found.path, variant, partial(inspection.digest, found.path), one_by_one=is_small)
        facts: dict[str, Any] = {
            "device": here.device,
            "precision": here.precision,
            "profile": device.profile,
            "architecture": found.architecture,
            "step": found.step,
            "validation_loss": found.validation_loss,
            "variant": {"name": variant.name, "evidence": variant.evidence},
            "vocabulary": found.vocab.name,
            "vocoder": variant.vocoder,
            "settings": defaults,
            "warnings": [*found.warnings],
        }
        return Opened(F5Speech(model, symbols, about, defaults, self._facts), facts, found.path)


_DEFAULTS: Mapping[str, Any] = {option.name: option.default for option in OPTIONS}


def _install() -> str:
    return installing.for_extra("f5", PACKAGE, "torch", "torchaudio")


def _version() -> str | None:
    return version_of(PACKAGE, "f5_tts", "torch", "torchaudio")
