"""What of an F5-TTS or E2-TTS model leaves no trace in its tensors: v0 or v1, and the vocoder that its mels are for.

Version 1.0 of f5-tts changed how text is padded and which attention heads know about places, and gave the old way a
pair of flags. Under the wrong ones a model speaks gibberish. They are told, in this order, by

1. what lies beside the file: `MODEL.yaml`, `model.yaml`, the configuration of its training;
2. what the file itself holds, by what the library's releases wrote and when;
3. nothing: then they have to be measured, with a recording and its transcript.

The file's name is a hint for people and decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engines.checkpoints import sidecar
from engines.checkpoints.f5_layout import Sizes, published_as
from engines.modelfiles.tensor_file import TensorFile

VOCODERS = ("vocos", "bigvgan")


@dataclass(frozen=True, slots=True)
class Flags:
    """Arguments of the library's `DiT` and `UNetT`.

    Attributes:
        text_mask_padding: Whether what fills up the text is kept at zero.
        pe_attn_head: So many of the attention heads, the first ones, know about places; None: all of them.
        average_upsampling: Whether text is stretched to the length of the audio
            (`text_embedding_average_upsampling`).
    """

    text_mask_padding: bool
    pe_attn_head: int | None
    average_upsampling: bool = False


V0 = Flags(text_mask_padding=False, pe_attn_head=1)
V1 = Flags(text_mask_padding=True, pe_attn_head=None)
BY_NAME: Mapping[str, Flags] = MappingProxyType({"v0": V0, "v1": V1})
NAMES: Mapping[Flags, str] = MappingProxyType({flags: name for name, flags in BY_NAME.items()})


@dataclass(frozen=True, slots=True)
class Variant:
    """What is known of a model beyond its tensors.

    Attributes:
        flags: None when nothing tells.
        evidence: What tells, or what was looked for; a clause without a period.
        vocoder: `vocos`, or `bigvgan` where its configuration says so.
        source: The file beside the model that tells; else the one that is there to tell it.
        hint: What names suggest, for people; "" for nothing.
        fault: What is wrong with a file beside the model, a sentence; "" for nothing.
    """

    flags: Flags | None
    evidence: str
    vocoder: str = "vocos"
    source: Path | None = None
    hint: str = ""
    fault: str = ""

    @property
    def name(self) -> str:
        """`v0`, `v1`, `a mixture of its own`, or `unknown`."""
        return "unknown" if self.flags is None else NAMES.get(self.flags, "a mixture of its own")


def settling(model: Path) -> str:
    """What somebody who knows can do where nothing tells: a clause."""
    return f"say `variant: v0` or `variant: v1` in {_shown(model.stem)}.yaml beside it"


def find(file: TensorFile, sizes: Sizes) -> Variant:
    """Tell a model's variant, as far as anything tells it.

    Args:
        file: The model file; what lies beside it is looked at too.
        sizes: As its tensors say.
    """
    said, of_no_use = _beside(file.path, sizes)
    if said.flags is not None or said.fault:
        return said
    flags, evidence = _inside(file, sizes)
    if flags is not None:
        return replace(said, flags=flags, evidence=evidence)
    return replace(said, evidence="; ".join((_NOTHING, *of_no_use[:3])), hint=_hint(file.path))


_NOTHING = "neither the file nor what lies beside it tells v0 from v1"


# --- in the file -----------------------------------------------------------------------------------------------------

_TRAINER = frozenset({"model_state_dict", "ema_model_state_dict", "optimizer_state_dict", "scheduler_state_dict"})


def _inside(file: TensorFile, sizes: Sizes) -> tuple[Flags | None, str]:
    """What the file itself tells."""
    if any("mel_spec.mel_stft." in name for name in file.entries):
        return V0, "it holds mel_spec.mel_stft, which f5-tts saved only before 0.3.4, when all models were v0"
    tops = {name.partition(".")[0] for name in (*file.entries, *file.values)}
    if tops >= _TRAINER and "step" in tops and "update" not in tops:
        return V0, "its trainer counted steps, as f5-tts did only before 0.6.2, when all models were v0"
    for values in (file.values, *_configurations(file.values)):
        if flags := _flags(values):
            return flags, "the configuration that was saved in it says so"
    if (name := published_as(sizes)) and name.startswith("E2-TTS"):
        return V0, f"every configuration for {name} that f5-tts has is v0"
    return None, ""


def _configurations(values: Mapping[str, object]) -> Iterator[Mapping[str, Any]]:
    """Mappings among a file's values; in the metadata of safetensors they are text."""
    left = sidecar.LARGEST  # of text, all together
    for value in values.values():
        if isinstance(value, Mapping):
            yield value
        elif isinstance(value, str) and len(value) <= left and value.lstrip().startswith("{"):
            left -= len(value) + _TEXT_COST
            try:
                yield sidecar.parse(value)
            except ValueError:
                continue


_TEXT_COST = 1000
"""Characters that a parser could have read in the time that it takes to begin."""


# --- beside it -------------------------------------------------------------------------------------------------------

_MAX_BESIDE, _MAX_NAMES = 20, 10_000


def _beside(model: Path, sizes: Sizes) -> tuple[Variant, list[str]]:
    """What files beside a model tell: the first of its own, else those of its training where they agree.

    Returns:
        What they tell, without flags where they do not tell those; and what of them was of no use, in words.
    """
    of_no_use: list[str] = []
    own = _own(model)
    vocoder, source = "", next(iter(own), None)
    for places in (own, _of_training(model)):
        found = [one for place in places if (one := _said(place, model, sizes, of_no_use)) is not None]
        if found and not vocoder:
            vocoder, source = found[0].vocoder, found[0].source
        telling = [one for one in found if one.flags is not None or (one.fault and places is own)]
        if len({(one.flags, one.fault) for one in telling}) > 1:
            of_no_use.append(" and ".join(one.evidence for one in telling[:2]))
        elif telling:
            return replace(telling[0], vocoder=vocoder), of_no_use
    return Variant(None, "", vocoder or "vocos", source), of_no_use


def _own(model: Path) -> list[Path]:
    """The first of what people put beside a model to say what it is."""
    names = (f"{model.stem}.yaml", f"{model.stem}.yml", f"{model.stem}.json", "model.yaml", "model.yml")
    return [place for name in names if (place := model.with_name(name)).is_file()][:1]


def _of_training(model: Path) -> list[Path]:
    """What a training run of f5-tts leaves beside its checkpoints: its configuration, Hydra's and the web page's."""
    try:
        there = sorted(model.parent.iterdir())[:_MAX_NAMES]
    except OSError:
        return []
    others = {one.stem for one in there if one.suffix in (".pt", ".pth", ".safetensors")}
    beside = [one for one in there if one.suffix in (".yaml", ".yml") and one.stem not in others]
    runs = (run for day in there if _DAY.fullmatch(day.name) for run in sorted(day.glob("*/.hydra/config.yaml")))
    places = (model.with_name("setting.json"), model.with_name(".hydra") / "config.yaml", *beside, *runs)
    return [place for place in places if place.is_file()][:_MAX_BESIDE]


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _said(place: Path, model: Path, sizes: Sizes, of_no_use: list[str]) -> Variant | None:
    """What one file beside a model tells of it."""
    name = _shown(place.relative_to(model.parent))
    try:
        values = sidecar.read(place)
    except (OSError, ValueError) as error:
        of_no_use.append(f"{name} can't be read ({error if isinstance(error, ValueError) else error.strerror})")
        return None
    for key, known in (("variant", tuple(BY_NAME)), ("vocoder", VOCODERS)):
        if key in values and values[key] not in known:
            fault = f"{name} beside it says `{key}: {_shown(values[key])}`; known are {' and '.join(known)}."
            return Variant(None, name, source=place, fault=fault)
    if other := _other_model(values, sizes):
        of_no_use.append(f"{name} is for another model ({other})")
        return None
    flags = _flags(values)
    vocoder = _vocoder(values)
    if flags is None and vocoder is None:
        of_no_use.append(f"{name} does not say")
        return None
    says = f"{name} beside it says {NAMES.get(flags, 'so')}" if flags is not None else name
    return Variant(flags, says, vocoder or "vocos", place)


def _arch(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of the backbone in a configuration: under model.arch, or all there is."""
    model = values.get("model")
    arch = model.get("arch") if isinstance(model, Mapping) else values
    return arch if isinstance(arch, Mapping) else {}


def _other_model(values: Mapping[str, Any], sizes: Sizes) -> str:
    """A size in which a configuration and a model differ: `depth 18, not 22`; "" when there is none."""
    model = values.get("model")
    backbone = str(model.get("backbone", "")) if isinstance(model, Mapping) else ""
    if backbone and backbone.lower() != sizes.family:
        return _shown(backbone)
    experiment = str(values.get("exp_name", ""))
    if experiment in _EXPERIMENTS and experiment.startswith("E2") != (sizes.family == "unett"):
        return experiment
    for name in ("dim", "depth", "heads", "text_dim", "conv_layers"):
        said = _whole(_arch(values).get(name))
        if said is not None and said != getattr(sizes, name):
            return f"{name} {said}, not {getattr(sizes, name)}"
    return ""


def _vocoder(values: Mapping[str, Any]) -> str | None:
    model = values.get("model")
    mels = model.get("mel_spec") if isinstance(model, Mapping) else None
    said = mels.get("mel_spec_type") if isinstance(mels, Mapping) else values.get("vocoder")
    return said if said in VOCODERS else None


_EXPERIMENTS: Mapping[str, Flags] = MappingProxyType({
    "F5TTS_v1_Base": V1, "F5TTS_v1_Small": V1, "F5TTS_Base": V0, "F5TTS_Small": V0, "E2TTS_Base": V0,
    "E2TTS_Small": V0, "F5-TTS": V0, "E2-TTS": V0,
})  # fmt: skip
"""Names that the library's training page and scripts have had for what they train (`exp_name`)."""


def _flags(values: Mapping[str, Any]) -> Flags | None:
    """Flags as our short form, a training configuration or the arguments of a backbone say; None: they do not."""
    if (variant := str(values.get("variant"))) in BY_NAME:
        return BY_NAME[variant]
    arch, model = _arch(values), values.get("model")
    if "text_mask_padding" in arch or "pe_attn_head" in arch:
        return _as_said(arch)
    if isinstance(model, Mapping) and isinstance(model.get("arch"), Mapping):
        # `backbone` came with version 1.0, and with it both flags; left out, they are as in v1.
        return V1 if "backbone" in model else V0
    return _EXPERIMENTS.get(str(values.get("exp_name")))


def _as_said(arch: Mapping[str, Any]) -> Flags | None:
    """Flags as they stand in the arguments of a backbone; None when one of them can't be understood."""
    padding = _truth(arch.get("text_mask_padding", True))
    average = _truth(arch.get("text_embedding_average_upsampling", False))
    said = str(arch.get("pe_attn_head")).lower()
    heads = _whole(said)
    if padding is None or average is None or (heads is None and said not in ("null", "none", "~", "")):
        return None
    if average and not padding:  # the library builds none like it
        return None
    return Flags(padding, heads, average)


def _truth(value: object) -> bool | None:
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(str(value).lower())


def _whole(value: object) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,6}", text := str(value)) else None


# --- names -----------------------------------------------------------------------------------------------------------

_IN_A_NAME = re.compile(r"(?<![a-z0-9])(v[01])(?![a-z0-9])|(?<![0-9])(1250000|1200000)(?![0-9])", re.IGNORECASE)


def _hint(model: Path) -> str:
    """What the names of a model, its folder and what lies beside it suggest."""
    try:
        beside = sorted(one.stem for one in model.parent.iterdir() if one.name.startswith("pretrained_"))
    except OSError:
        beside = []
    for name in (model.stem, model.parent.name, *beside[:_MAX_BESIDE]):
        if found := _IN_A_NAME.search(name):
            said = found[0].lower()
            kind = {"1250000": "v1", "1200000": "v0"}.get(said, said)
            return f"the name {_shown(name)} suggests {kind}, which proves nothing"
    return ""


def _shown(text: object) -> str:
    """For a message, with nothing in it that could steer a terminal."""
    shown = str(text)[:100]
    return shown if shown.isprintable() else ascii(shown)
