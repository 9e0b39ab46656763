"""F5-TTS (arXiv 2410.06885) and E2-TTS (arXiv 2406.18009): voice cloning from a few seconds and their transcript.

Any checkpoint that f5-tts trains; its sizes are read from the shapes of its tensors. Loading, network and vocoders are
our own (`engines/f5/net`, `engines/torch`), several times as fast as f5-tts and with the same result. Checkpoints are
opened read-only, and nothing in them is executed.
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
from engines.neural_engine import NeuralEngine, Opened, accept, prepare, version_of

PACKAGE = "f5-tts"
RATE_HZ = 24000
OPTIONS = (
    Option("speed", float, 1.0, "speech rate; 1.0 is that of the recording", 0.3, 2.0),
    Option("nfe_step", int, None, "steps of the ODE solver; fewer are faster, 7 is often enough (32)", 1, 128),
    Option(
        "cfg_strength",
        float,
        2.0,
        "classifier-free guidance: how closely to follow text and voice; 0 is twice as fast",
        0.0,
        10.0,
    ),
    Option("sway_sampling_coef", float, -1.0, "sway sampling; below 0, more steps near the beginning", -1.0, 1.0),
    Option("cross_fade_s", float, 0.15, "cross-fade, in seconds, between the parts of a text that was split", 0.0, 1.0),
    Option("fix_duration_s", float, None, "duration of each chunk, in seconds, whatever its text", 0.3, 30.0),
)
STEPS, STEPS_LOW_VRAM = 32, 16
_CODES = """
    aa ab af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en
    eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja
    jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb
    nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq
    sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
LANGUAGES = tuple(_CODES.split())
"""ISO 639-1 codes; which of them a model supports depends on its training."""


class F5(NeuralEngine):
    """One instance holds one model, from `load` to `close`."""

    spares = True

    @classmethod
    def info(cls) -> EngineInfo:
        """Facts about the engine; `missing` says how to install it."""
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
        primary = {"cmn": "zh", "yue": "zh"}.get(primary, primary)  # both are read as pinyin
        return primary if primary in LANGUAGES else None

    def open(self, checkpoint: Path | None, device: Device) -> Opened:
        """Load a checkpoint, or the base model for None; raises as `NeuralEngine.open`."""
        if _version() is None:
            raise EngineMissing("f5 is not installed", _install())
        models = device.models
        found = accept(checkpoint or base_models.weights("f5", models), "f5", "F5-TTS or E2-TTS", models)
        where = prepare(device)
        requirements.check(requirements.of(found), models)
        variant = found.variant
        assert found.sizes is not None and variant is not None and found.vocab is not None  # noqa: PT018, S101 - accept() checks
        is_low = device.profile == "low_vram"
        is_small_gpu = is_low and where.device != "cpu"

        from engines.f5.net.model import F5Files, F5Model
        from engines.f5.net.speech import F5Speech, ModelInfo
        from engines.f5.net.symbols import Tokenizer

        # On a small GPU the vocoder stays on the CPU, and chunks are rendered one by one.
        vocoder = base_models.require(variant.vocoder, models)
        files = F5Files(found.path, found.tensors, found.sizes, vocoder, variant.vocoder)
        with runtime.too_small(f"the model does not fit into the memory of {where.device}"):
            model = F5Model(files, where.device, where.torch_dtype, "cpu" if is_small_gpu else where.device)
        tokenizer = Tokenizer(f5_vocabulary.read(found.vocab).char_map(found.sizes.vocabulary))
        defaults = {**_DEFAULTS, "nfe_step": STEPS_LOW_VRAM if is_low else STEPS}
        info = ModelInfo(found.path, variant, partial(inspection.digest, found.path), one_by_one=is_small_gpu)
        facts: dict[str, Any] = {
            "device": where.device,
            "precision": where.precision,
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
        return Opened(F5Speech(model, tokenizer, info, defaults, self._facts), facts, found.path)


_DEFAULTS: Mapping[str, Any] = {option.name: option.default for option in OPTIONS}


def _install() -> str:
    return installing.for_extra("f5", PACKAGE, "torch", "torchaudio")


def _version() -> str | None:
    return version_of(PACKAGE, "f5_tts", "torch", "torchaudio")
