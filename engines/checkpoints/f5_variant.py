"""Properties of an F5-TTS or E2-TTS model that its tensors do not show: v0 or v1, and its vocoder.

f5-tts 1.0 changed how text is padded and which attention heads have a rotary embedding, and added flags for the old
behaviour (v0). With the wrong flags a model makes gibberish. They are determined, in this order, by

1. files next to the model: `MODEL.yaml`, `model.yaml`, the configuration of its training;
2. the model file: its metadata, and what only certain releases of f5-tts wrote;
3. measurement with a recording and its transcript, if there is neither (`engines.f5.net.variant_probe`).

File names are shown as hints and decide nothing.
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
    """Arguments of `f5_tts.model.backbones.dit.DiT` and `unett.UNetT` that leave no trace in the tensors.

    Attributes:
        text_mask_padding: Whether filler tokens of the text embedding are masked to zero.
        pe_attn_head: How many attention heads, the first ones, have the rotary embedding; None for all.
        average_upsampling: Whether the text embedding is stretched to the length of the audio
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
    """What is known of a model apart from its tensors.

    Attributes:
        flags: None if unknown.
        evidence: What determines the flags, or what was examined without result; a clause without a full stop.
        vocoder: `vocos` (the default) or `bigvgan`.
        source: The file next to the model that determines the flags or the vocoder, or the first that could.
        hint: What names suggest, for messages; "" for nothing.
        fault: An error in a file next to the model, as a sentence; "" for none.
    """

    flags: Flags | None
    evidence: str
    vocoder: str = "vocos"
    source: Path | None = None
    hint: str = ""
    fault: str = ""

    @property
    def name(self) -> str:
        """`v0`, `v1`, `custom` or `unknown`."""
        return "unknown" if self.flags is None else NAMES.get(self.flags, "custom")


def settling(model: Path) -> str:
    """What to do if the variant is unknown: a clause in the imperative."""
    return f"set `variant: v0` or `variant: v1` in {_shown(model.stem)}.yaml next to it"


def find(file: TensorFile, sizes: Sizes) -> Variant:
    """Determine a model's variant, as far as possible without running it.

    Args:
        file: The model file; files next to it are read too.
        sizes: As read from its tensors.
    """
    variant, unused = _from_sidecars(file.path, sizes)
    if variant.flags is not None or variant.fault:
        return variant
    flags, evidence = _from_file(file, sizes)
    if flags is not None:
        return replace(variant, flags=flags, evidence=evidence)
    return replace(variant, evidence="; ".join((_NO_EVIDENCE, *unused[:3])), hint=_hint(file.path))


_NO_EVIDENCE = "neither the file nor those next to it specify v0 or v1"


# --- in the file -----------------------------------------------------------------------------------------------------

_TRAINER_KEYS = frozenset({"model_state_dict", "ema_model_state_dict", "optimizer_state_dict", "scheduler_state_dict"})


def _from_file(file: TensorFile, sizes: Sizes) -> tuple[Flags | None, str]:
    """Flags and evidence from the file itself."""
    if any("mel_spec.mel_stft." in name for name in file.entries):
        return V0, "it has mel_spec.mel_stft, which f5-tts saved only before 0.3.4, when all models were v0"
    top_level = {name.partition(".")[0] for name in (*file.entries, *file.values)}
    if top_level >= _TRAINER_KEYS and "step" in top_level and "update" not in top_level:
        return V0, "its trainer counted steps, as f5-tts did only before 0.6.2, when all models were v0"
    for values in (file.values, *_configurations(file.values)):
        if flags := _flags(values):
            return flags, "the configuration saved in it specifies the variant"
    if (name := published_as(sizes)) and name.startswith("E2-TTS"):
        return V0, f"all configurations of f5-tts for {name} are v0"
    return None, ""


def _configurations(values: Mapping[str, object]) -> Iterator[Mapping[str, Any]]:
    """Mappings among a file's values; in the metadata of safetensors they are JSON or YAML text."""
    budget = sidecar.MAX_BYTES  # characters of all texts together
    for value in values.values():
        if isinstance(value, Mapping):
            yield value
        elif isinstance(value, str) and len(value) <= budget and value.lstrip().startswith("{"):
            budget -= len(value) + _PARSER_COST
            try:
                yield sidecar.parse(value)
            except ValueError:
                continue


_PARSER_COST = 1000
"""Start of a parser, in characters that it reads in the same time."""


# --- next to it ------------------------------------------------------------------------------------------------------

_MAX_SIDECARS, _MAX_NAMES = 20, 10_000


def _from_sidecars(model: Path, sizes: Sizes) -> tuple[Variant, list[str]]:
    """Variant from the files next to a model: its own file first, then those of its training if they agree.

    Returns:
        The variant, without flags if no file specifies them; and why files were not used, in words.
    """
    unused: list[str] = []
    own = _own_sidecar(model)
    vocoder, source = "", next(iter(own), None)
    for paths in (own, _training_files(model)):
        found = [variant for path in paths if (variant := _read(path, model, sizes, unused)) is not None]
        if found and not vocoder:
            vocoder, source = found[0].vocoder, found[0].source
        # An unknown variant or vocoder is an error in the model's own file only; others may belong to something else.
        decisive = [each for each in found if each.flags is not None or (each.fault and paths is own)]
        if len({(each.flags, each.fault) for each in decisive}) > 1:
            unused.append(" and ".join(each.evidence for each in decisive[:2]))
        elif decisive:
            return replace(decisive[0], vocoder=vocoder), unused
    return Variant(None, "", vocoder or "vocos", source), unused


def _own_sidecar(model: Path) -> list[Path]:
    """The first of the files in which users specify a model's variant, or none."""
    names = (f"{model.stem}.yaml", f"{model.stem}.yml", f"{model.stem}.json", "model.yaml", "model.yml")
    return [path for name in names if (path := model.with_name(name)).is_file()][:1]


def _training_files(model: Path) -> list[Path]:
    """Configurations that a training run of f5-tts leaves: the web page's setting.json, copies, and Hydra's."""
    try:
        listing = sorted(model.parent.iterdir())[:_MAX_NAMES]
    except OSError:
        return []
    # `OTHER.yaml` next to `OTHER.safetensors` is another model's own file.
    models = {path.stem for path in listing if path.suffix in (".pt", ".pth", ".safetensors")}
    copies = [path for path in listing if path.suffix in (".yaml", ".yml") and path.stem not in models]
    days = (path for path in listing if _HYDRA_DAY.fullmatch(path.name))
    runs = (config for day in days for config in sorted(day.glob("*/.hydra/config.yaml")))
    paths = (model.with_name("setting.json"), model.with_name(".hydra") / "config.yaml", *copies, *runs)
    return [path for path in paths if path.is_file()][:_MAX_SIDECARS]


_HYDRA_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _read(path: Path, model: Path, sizes: Sizes, unused: list[str]) -> Variant | None:
    """Variant from one file; None if the file is not usable, with the reason appended to `unused`."""
    name = _shown(path.relative_to(model.parent))
    try:
        values = sidecar.read(path)
    except (OSError, ValueError) as error:
        unused.append(f"{name} can't be read ({error if isinstance(error, ValueError) else error.strerror})")
        return None
    for key, known in (("variant", tuple(BY_NAME)), ("vocoder", VOCODERS)):
        if key in values and values[key] not in known:
            fault = f"{name} next to it has `{key}: {_shown(values[key])}`; supported: {', '.join(known)}."
            return Variant(None, name, source=path, fault=fault)
    if mismatch := _mismatch(values, sizes):
        unused.append(f"{name} is for another model ({mismatch})")
        return None
    flags = _flags(values)
    vocoder = _vocoder(values)
    if flags is None and vocoder is None:
        unused.append(f"{name} specifies no variant")
        return None
    evidence = f"{name} next to it specifies {NAMES.get(flags, 'its flags')}" if flags is not None else name
    return Variant(flags, evidence, vocoder or "vocos", path)


def _arch(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments of the backbone: `model.arch` of a training configuration, otherwise the whole mapping."""
    model = values.get("model")
    arch = model.get("arch") if isinstance(model, Mapping) else values
    return arch if isinstance(arch, Mapping) else {}


def _mismatch(values: Mapping[str, Any], sizes: Sizes) -> str:
    """A size in which a configuration differs from the model: `depth 18, not 22`; "" for none."""
    model = values.get("model")
    backbone = str(model.get("backbone", "")) if isinstance(model, Mapping) else ""
    if backbone and backbone.lower() != sizes.family:
        return _shown(backbone)
    experiment = str(values.get("exp_name", ""))
    if experiment in _EXPERIMENTS and experiment.startswith("E2") != (sizes.family == "unett"):
        return experiment
    for name in ("dim", "depth", "heads", "text_dim", "conv_layers"):
        value = _int(_arch(values).get(name))
        if value is not None and value != getattr(sizes, name):
            return f"{name} {value}, not {getattr(sizes, name)}"
    return ""


def _vocoder(values: Mapping[str, Any]) -> str | None:
    """From `model.mel_spec.mel_spec_type` of a training configuration, or `vocoder` of our own short form."""
    model = values.get("model")
    mel_spec = model.get("mel_spec") if isinstance(model, Mapping) else None
    vocoder = mel_spec.get("mel_spec_type") if isinstance(mel_spec, Mapping) else values.get("vocoder")
    return vocoder if vocoder in VOCODERS else None


_EXPERIMENTS: Mapping[str, Flags] = MappingProxyType({
    "F5TTS_v1_Base": V1, "F5TTS_v1_Small": V1, "F5TTS_Base": V0, "F5TTS_Small": V0, "E2TTS_Base": V0,
    "E2TTS_Small": V0, "F5-TTS": V0, "E2-TTS": V0,
})  # fmt: skip
"""Values of `exp_name` in all releases of f5-tts's fine-tuning page and scripts."""


def _flags(values: Mapping[str, Any]) -> Flags | None:
    """Flags from our short form (`variant`), a training configuration, or backbone arguments; None without any."""
    if (variant := str(values.get("variant"))) in BY_NAME:
        return BY_NAME[variant]
    arch, model = _arch(values), values.get("model")
    if "text_mask_padding" in arch or "pe_attn_head" in arch:
        return _flags_of_arch(arch)
    if isinstance(model, Mapping) and isinstance(model.get("arch"), Mapping):
        # `backbone` and both flags were added in 1.0. So without `backbone` it is older, and without flags as v1.
        return V1 if "backbone" in model else V0
    return _EXPERIMENTS.get(str(values.get("exp_name")))


def _flags_of_arch(arch: Mapping[str, Any]) -> Flags | None:
    """Flags in the arguments of a backbone, with its defaults; None if one of them is invalid."""
    padding = _bool(arch.get("text_mask_padding", True))
    average = _bool(arch.get("text_embedding_average_upsampling", False))
    text = str(arch.get("pe_attn_head")).lower()
    heads = _int(text)
    if padding is None or average is None or (heads is None and text not in ("null", "none", "~", "")):
        return None
    if average and not padding:  # the library refuses this combination
        return None
    return Flags(padding, heads, average)


def _bool(value: object) -> bool | None:
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(str(value).lower())


def _int(value: object) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,6}", text := str(value)) else None


# --- names -----------------------------------------------------------------------------------------------------------

# v0, v1, or the updates of the published base models: 1,250,000 (v1) and 1,200,000 (v0)
_IN_A_NAME = re.compile(r"(?<![a-z0-9])(v[01])(?![a-z0-9])|(?<![0-9])(1250000|1200000)(?![0-9])", re.IGNORECASE)


def _hint(model: Path) -> str:
    """What the names of a model, its folder, and the pretrained model next to it suggest; "" for nothing."""
    try:
        pretrained = sorted(path.stem for path in model.parent.iterdir() if path.name.startswith("pretrained_"))
    except OSError:
        pretrained = []
    for name in (model.stem, model.parent.name, *pretrained[:_MAX_SIDECARS]):
        if found := _IN_A_NAME.search(name):
            match = found[0].lower()
            variant = {"1250000": "v1", "1200000": "v0"}.get(match, match)
            return f"the name {_shown(name)} suggests {variant}, but a name is no evidence"
    return ""


def _shown(text: object) -> str:
    """For a message: shortened, and without control characters."""
    shown = str(text)[:100]
    return shown if shown.isprintable() else ascii(shown)
