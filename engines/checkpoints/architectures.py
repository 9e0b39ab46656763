"""Recognises a model by names and shapes of its tensors, never by the name of its file.

Prefixes of trainers and wrappers (`module.`, `ema_model.`, `xtts.`, `model_state_dict.`) are removed first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engines.checkpoints import f5_layout, xtts_layout
from engines.checkpoints.f5_layout import Sizes
from engines.modelfiles.tensor_file import Entry, TensorFile, quoted

Tensors = Mapping[str, Entry]
MAX_SHOWN = 3  # tensors, in an error message

_WRAPPERS = frozenset(
    {"model", "module", "_orig_mod", "state_dict", "model_state_dict", "xtts", "ema", "ema_model",
     "ema_model_state_dict", "online_model", "base_model"}
)  # fmt: skip
_TRAINING_ONLY = ("optimizer", "scheduler", "scaler", "lr_scheduler")


@dataclass(frozen=True, slots=True)
class Architecture:
    """The architecture of the tensors in a file.

    Attributes:
        name: For users: `XTTS-v2`, or what the file is instead of a speech model.
        engine: Name of its engine; None for anything but a speech model.
        tensors: Those that inference needs, by the library's names.
        vocabulary: Rows of the text embedding, or None.
        fault: Why it can't be loaded, as a sentence; "" if it can.
        cure: What to do, as a sentence; "" without a fault.
        is_adapter: Whether it is a LoRA adapter.
        sizes: Of F5-TTS and E2-TTS; None if they can't be read.
        averaged: Whether the tensors are an average over the training (EMA); None if the names do not show it.
    """

    name: str
    engine: str | None = None
    tensors: Tensors = field(default_factory=dict)
    vocabulary: int | None = None
    fault: str = ""
    cure: str = ""
    is_adapter: bool = False
    sizes: Sizes | None = None
    averaged: bool | None = None


def recognise(file: TensorFile) -> Architecture:
    """Recognise the contents of a file, and check that they are complete."""
    tensors = unwrapped(file.entries)
    if any(mark in name for name in tensors for mark in _ADAPTED):
        return _adapter(tensors)
    if "gpt.text_embedding.weight" in tensors and "gpt.mel_embedding.weight" in tensors:
        return _xtts(tensors)
    rooted = _rooted(tensors)
    if f5_layout.EMBEDDING in rooted and f5_layout.INPUT in rooted:
        return _flow_matching(file, rooted)
    return _unsupported(file, tensors)


def unwrapped(entries: Tensors) -> dict[str, Entry]:
    """Tensors by their names in the model, without prefixes and without the state of the trainer.

    If a file has both the last weights and their average (EMA), the average is used.
    """
    found: dict[str, Entry] = {}
    averaged: set[str] = set()
    for name, entry in entries.items():
        parts = name.split(".")
        if parts[0].startswith(_TRAINING_ONLY):
            continue
        start = next((n for n, part in enumerate(parts) if part not in _WRAPPERS), 0)
        own = _current_name(".".join(parts[start:]))
        is_average = any(part.startswith("ema") for part in parts[:start]) and "online_model" not in parts[:start]
        if own not in found or (is_average and own not in averaged):
            found[own] = entry
            if is_average:
                averaged.add(own)
    return found


def _current_name(name: str) -> str:
    """The name of a tensor of a weight norm in torch 2.1 and later."""
    for old, new in ((".weight_g", "0"), (".weight_v", "1")):
        if name.endswith(old):
            return f"{name.removesuffix(old)}.parametrizations.weight.original{new}"
    return name


def first_few(names: Iterable[str]) -> str:
    """For messages: `a, b, c and 5 more`."""
    shown = list(names)
    more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
    return ", ".join(shown[:MAX_SHOWN]) + more


# --- XTTS ------------------------------------------------------------------------------------------------------------


def _xtts(tensors: Tensors) -> Architecture:
    words = tensors["gpt.text_embedding.weight"].shape
    rows = words[0] if words else 0
    if "gpt.conditioning_perceiver.latents" not in tensors and "gpt.prompt_embedding.weight" in tensors:
        return Architecture(
            "XTTS-v1", "xtts", tensors, rows,
            "It is XTTS-v1; the xtts engine supports XTTS-v2.", "Train it again, from the XTTS-v2 base model.",
        )  # fmt: skip
    if any(".base_layer." in name for name in tensors):
        return Architecture("XTTS-v2 with an adapter that is not merged", "xtts", tensors, rows, *_NOT_MERGED)
    if not any(name.startswith("hifigan_decoder.") for name in tensors):
        return Architecture("XTTS-v2 without its vocoder", "xtts", tensors, rows, *_NO_VOCODER)
    if len(words) != 2 or len(tensors["gpt.mel_embedding.weight"].shape) != 2:
        return Architecture("XTTS-v2", "xtts", tensors, rows, "Its embeddings are not matrices.", _COPY_AGAIN)
    expected = xtts_layout.expected(tensors)
    own = {name: tensors[name] for name in expected if name in tensors}
    fault = _differences(own, expected)
    return Architecture("XTTS-v2", "xtts", own, rows, fault, _COPY_AGAIN if fault else "")


_COPY_AGAIN = "Copy it again from the training run, or use another checkpoint of that run."
_NOT_MERGED = (
    "It has an adapter (LoRA) that is not merged into the model.",
    "Merge it where it was trained (merge_and_unload in PEFT), or save only the adapter (save_pretrained).",
)
_NO_VOCODER = (
    "It has only the GPT of XTTS-v2: hifigan_decoder is missing.",
    "Use the checkpoint that the trainer saved (best_model.pth), which is complete.",
)


def _differences(tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> str:
    """Sentences about tensors that are missing or have a wrong shape; "" if all are right."""
    missing = [name for name in expected if name not in tensors]
    wrong = [
        f"{name} is {list(entry.shape)} and should be {list(expected[name])}"
        for name, entry in tensors.items()
        if entry.shape != expected[name]
    ]
    sentences = []
    if missing:
        sentences.append(f"It lacks {len(missing)} of {len(expected)} tensors: {first_few(missing)}.")
    if wrong:
        sentences.append(f"Shapes of its tensors do not match: {first_few(wrong)}.")
    return " ".join(sentences)


# --- adapters --------------------------------------------------------------------------------------------------------

_ADAPTED = (".lora_", ".hada_w", ".lokr_w")
_LORA = re.compile(
    r"(?:^|\.)h\.(\d{1,3})\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.lora_([AB])(?:\.\w{1,60})?\.weight"
)
_F5_LAYER = re.compile(
    r"(?:^|\.)(?:transformer_blocks|layers)\.\d{1,3}\.(?:attn|ff|2|4)\.(?:to_[qkv]|to_out\.0|ff\.0\.0|ff\.2)\."
)
_WIDTHS = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}


def _adapter(tensors: Tensors) -> Architecture:
    """LoRA as PEFT saves it: A [rank, in] and B [out, rank] for each layer that it changes."""
    is_whole = any(name.startswith("gpt.") and name.endswith(".text_embedding.weight") for name in tensors)
    if is_whole and any(".base_layer." in name for name in tensors):
        return Architecture("XTTS-v2 with an adapter that is not merged", "xtts", tensors, None, *_NOT_MERGED)
    if any(_F5_LAYER.search(name) for name in tensors):
        if f5_layout.EMBEDDING in tensors:
            return Architecture("F5-TTS with an adapter that is not merged", "f5", tensors, None, *_NOT_MERGED)
        fault = "It is an adapter; the f5 engine supports only whole models."
        return Architecture("LoRA adapter for F5-TTS", "f5", tensors, None, fault, _MERGE, is_adapter=True)
    own: dict[str, Entry] = {}
    others = []
    for name, entry in tensors.items():
        found = _LORA.search(name)
        if found is not None and found.end() == len(name):
            own[f"gpt.gpt.h.{found[1]}.{found[2]}.lora_{found[3]}.weight"] = entry
        else:
            others.append(name)
    if not own:
        fault = f"It is an adapter for another model: it changes {first_few(map(quoted, others))}."
        return Architecture("adapter for another model", None, tensors, None, fault, _ADAPTERS, is_adapter=True)
    if others:
        fault = f"It changes more than c_attn, c_proj and c_fc: {first_few(map(quoted, others))}."
        return Architecture("LoRA adapter for XTTS-v2", "xtts", own, None, fault, _MERGE, is_adapter=True)
    fault, cure = _adapter_fault(own), _COPY_AGAIN
    return Architecture("LoRA adapter for XTTS-v2", "xtts", own, None, fault, cure if fault else "", is_adapter=True)


_ADAPTERS = "The xtts engine supports adapters for the GPT of XTTS-v2: c_attn, c_proj and c_fc of its layers."
_MERGE = "Merge it into its model where it was trained (merge_and_unload in PEFT), and use the merged checkpoint."


def _adapter_fault(tensors: Tensors) -> str:
    """A sentence about layers whose A and B are incomplete or do not match; "" if all do."""
    wrong = []
    width = None
    for layer in dict.fromkeys(name.rpartition(".lora_")[0] for name in tensors):
        down, up = (tensors.get(f"{layer}.lora_{side}.weight") for side in "AB")
        sizes = _WIDTHS[layer.split(".", 4)[4]]
        if down is None or up is None or len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
            wrong.append(layer)
            continue
        width = width or down.shape[1] // sizes[0]
        if (down.shape[1], up.shape[0]) != (width * sizes[0], width * sizes[1]):
            wrong.append(layer)
    return f"Shapes of its tensors do not match: those for {first_few(wrong)}." if wrong else ""


# --- F5 and E2 -------------------------------------------------------------------------------------------------------

_ANCHOR = "text_embed.text_embed.weight"


def _rooted(tensors: Tensors) -> Tensors:
    """Tensors of F5 and E2 by the library's names, without prefixes of an outer model; those of others unchanged."""
    anchor = next((name for name in tensors if name.endswith(_ANCHOR)), None)
    if anchor is None or anchor == f5_layout.EMBEDDING:
        return tensors
    backbone = anchor.removesuffix(_ANCHOR)
    outer = backbone.removesuffix(f5_layout.ROOT)
    root = f5_layout.ROOT if outer == backbone else ""  # the file has only the backbone, under its own names
    bare = {name.removeprefix(outer): entry for name, entry in tensors.items()}
    return {name if _is_unused(name, entry) else f"{root}{name}": entry for name, entry in bare.items()}


def _is_unused(name: str, entry: Entry) -> bool:
    """Whether a tensor is not part of the backbone nor needed for inference: mel filters, counters of the trainer."""
    return name.startswith("mel_spec.") or ("." not in name and entry.count <= 1)


def _flow_matching(file: TensorFile, tensors: Tensors) -> Architecture:
    """F5-TTS (a DiT) or E2-TTS (a UNetT), of any size."""
    words, averaged = tensors[f5_layout.EMBEDDING].shape, _is_averaged(file.entries)
    rows = words[0] if words else 0
    sizes = f5_layout.sizes(tensors)
    if sizes is None:
        family = "F5-TTS" if any(name.startswith("transformer.transformer_blocks.") for name in tensors) else "E2-TTS"
        fault = "It has no layers, or its text embedding or input projection is not a matrix."
        return Architecture(family, "f5", tensors, rows, fault, _COPY_AGAIN, averaged=averaged)
    expected = f5_layout.expected(sizes)
    own = {name: tensors[name] for name in expected if name in tensors}
    others = [name for name, entry in tensors.items() if name not in expected and not _is_unused(name, entry)]
    needed = {name: shape for name, shape in expected.items() if name in own or name not in f5_layout.OPTIONAL}
    name, fault, cure = f5_layout.title(sizes), _differences(own, needed), _COPY_AGAIN
    if any(_MLX_NAME.search(name) for name in others):
        name, fault, cure = "F5-TTS converted for MLX", *_FOR_MLX
    elif others:
        fault = f"It has tensors that F5-TTS does not have: {first_few(map(quoted, others))}. {fault}".strip()
        cure = "It is another model, based on the code of F5-TTS: use it with the program that it was made for."
    elif (missing := needed.keys() - own.keys()) and missing == {*f5_layout.skip_projections(sizes)}:
        fault, cure = _NO_SKIP_PROJECTIONS
    elif not fault and sizes.n_mels != f5_layout.MELS:
        fault = f"Its mel spectrograms have {sizes.n_mels} bands; the vocoders need {f5_layout.MELS}."
        cure = _OWN_PROGRAM
    return Architecture(name, "f5", own, rows, fault, cure if fault else "", sizes=sizes, averaged=averaged)


_OWN_PROGRAM = "Use it with the program that it was trained with; no published model is like it."
_NO_SKIP_PROJECTIONS = (
    "It has no skip projections: its skip_connect_type is add or none, but only concat is supported.",
    _OWN_PROGRAM,
)
_MLX_NAME = re.compile(r"\.(text_blocks|to_out|time_mlp|conv1d|ff)\.layers\.")
_FOR_MLX = (
    "It was converted for MLX, which has other names and shapes of tensors.",
    "Use the checkpoint that it was converted from.",
)


def _is_averaged(entries: Tensors) -> bool | None:
    """Whether the weights are the average (EMA), by the trainer's names; None if the names do not show it."""
    parts = {part for name in entries if name.endswith(_ANCHOR) for part in name.split(".")}
    if parts & {"ema_model", "ema"} or any(name.rpartition(".")[2] == "initted" for name in entries):
        return True
    return False if parts & {"model_state_dict", "ema_model_state_dict"} else None


# --- anything else ---------------------------------------------------------------------------------------------------

_OTHER_MODELS = (
    (r"codebook\.(embed|weight)", "the DVAE of XTTS, which only training needs"),
    (r".*\.(gpt_cond_latent|speaker_embedding)", "the built-in voices of an XTTS model (speakers_xtts.pth)"),
    (r"(generator\.)?activation_post\.act\.alpha", "a BigVGAN vocoder"),
    (r"(waveform_decoder|hifigan_decoder)\..*|conv_pre\..*", "a HiFi-GAN vocoder"),
    (r"backbone\.embed\.weight", "a Vocos vocoder"),
    (r"encoder\.conv1\.weight", "a Whisper model, for speech recognition"),
    (r"enc_p\..*|text_encoder\.emb\.weight", "a VITS model"),
    (r"transformer\.audio_embed\.linear\.weight", "an MMDiT, which has no published model in f5-tts"),
)
_SUPPORTED = "Supported are XTTS-v2, F5-TTS, E2-TTS, and LoRA adapters for XTTS-v2."


def _unsupported(file: TensorFile, tensors: Tensors) -> Architecture:
    if not tensors:
        what = "the state of an optimizer" if file.entries else "a file without tensors"
        return Architecture(
            what, None, {}, None, f"It is {what}, not a model.", "Use the model that was saved with it."
        )
    if list(tensors) == ["tensor"]:
        return Architecture("a single tensor", None, tensors, None, "It is a single tensor, not a model.", _SUPPORTED)
    for pattern, what in _OTHER_MODELS:
        if any(re.fullmatch(pattern, name) for name in tensors):
            return Architecture(what, None, tensors, None, f"It is {what}.", _SUPPORTED)
    fault = f"It is not a supported speech model (tensors: {first_few(map(quoted, tensors))})."
    return Architecture("not a speech model", None, tensors, None, fault, _SUPPORTED)
