"""Which model some tensors are, told by their names and shapes: never by the name of the file.

Wrappers put prefixes before the names (`module.`, `ema_model.`, `xtts.`, `model_state_dict.`), which are taken off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engines.checkpoints import f5_layout, xtts_layout
from engines.checkpoints.f5_layout import Sizes
from engines.modelfiles.tensor_file import Entry, TensorFile, quoted

Tensors = Mapping[str, Entry]
SHOWN = 3

_WRAPPERS = frozenset(
    {"model", "module", "_orig_mod", "state_dict", "model_state_dict", "xtts", "ema", "ema_model",
     "ema_model_state_dict", "online_model", "base_model"}
)  # fmt: skip
_TRAINING_ONLY = ("optimizer", "scheduler", "scaler", "lr_scheduler")


@dataclass(frozen=True, slots=True)
class Architecture:
    """What some tensors are.

    Attributes:
        name: For people: `XTTS-v2`, or what it is instead of a model.
        engine: That speaks with it; None when it is no model of an engine's.
        tensors: What inference needs, by the library's names.
        vocabulary: Rows of the text embedding, or None.
        fault: Why it can't be loaded, a sentence; "" when nothing speaks against it.
        cure: What to do about that.
        is_adapter: Whether it changes a base model instead of being one.
        sizes: Of F5-TTS and E2-TTS, where they can be read.
        averaged: Whether the tensors are a running average over the training (EMA); None when the names do not tell.
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
    """Say what a file holds, and whether it is whole."""
    tensors = unwrapped(file.entries)
    if any(mark in name for name in tensors for mark in _ADAPTED):
        return _adapter(tensors)
    if "gpt.text_embedding.weight" in tensors and "gpt.mel_embedding.weight" in tensors:
        return _xtts(tensors)
    rooted = _rooted(tensors)
    if f5_layout.EMBEDDING in rooted and f5_layout.INPUT in rooted:
        return _flow_matching(file, rooted)
    return _something_else(file, tensors)


def unwrapped(entries: Tensors) -> dict[str, Entry]:
    """Tensors by the names that the model itself gives them, without what belongs to the training alone.

    Where a file has a model twice, as it is and averaged (EMA), the averaged one counts.
    """
    found: dict[str, Entry] = {}
    averaged: set[str] = set()
    for name, entry in entries.items():
        parts = name.split(".")
        if parts[0].startswith(_TRAINING_ONLY):
            continue
        start = next((n for n, part in enumerate(parts) if part not in _WRAPPERS), 0)
        own = _as_today(".".join(parts[start:]))
        is_average = any(part.startswith("ema") for part in parts[:start]) and "online_model" not in parts[:start]
        if own not in found or (is_average and own not in averaged):
            found[own] = entry
            if is_average:
                averaged.add(own)
    return found


def _as_today(name: str) -> str:
    """Weight norm has had other names: torch kept them until version 2."""
    for old, new in ((".weight_g", "0"), (".weight_v", "1")):
        if name.endswith(old):
            return f"{name.removesuffix(old)}.parametrizations.weight.original{new}"
    return name


def some(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    shown = list(names)
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more


# --- XTTS ------------------------------------------------------------------------------------------------------------


def _xtts(tensors: Tensors) -> Architecture:
    words = tensors["gpt.text_embedding.weight"].shape
    rows = words[0] if words else 0
    if "gpt.conditioning_perceiver.latents" not in tensors and "gpt.prompt_embedding.weight" in tensors:
        return Architecture(
            "XTTS-v1", "xtts", tensors, rows,
            "It is XTTS-v1, and the xtts engine speaks with XTTS-v2.", "Train it again, from the XTTS-v2 base model.",
        )  # fmt: skip
    if any(".base_layer." in name for name in tensors):
        return Architecture("XTTS-v2 with an adapter that is not merged", "xtts", tensors, rows, *_NOT_MERGED)
    if not any(name.startswith("hifigan_decoder.") for name in tensors):
        return Architecture("XTTS-v2 without its vocoder", "xtts", tensors, rows, *_NO_VOCODER)
    if len(words) != 2 or len(tensors["gpt.mel_embedding.weight"].shape) != 2:
        return Architecture("XTTS-v2", "xtts", tensors, rows, "Its embeddings are no tables.", _TRAIN_AGAIN)
    expected = xtts_layout.expected(tensors)
    own = {name: tensors[name] for name in expected if name in tensors}
    fault = _differences(own, expected)
    return Architecture("XTTS-v2", "xtts", own, rows, fault, _TRAIN_AGAIN if fault else "")


_TRAIN_AGAIN = "Copy it again from the training run, or use another checkpoint of that run."
_NOT_MERGED = (
    "An adapter (LoRA) was saved together with the model, and not merged into it.",
    "Merge it where it was trained (merge_and_unload in PEFT), or save the adapter alone (save_pretrained).",
)
_NO_VOCODER = (
    "It holds the GPT of XTTS-v2 alone: hifigan_decoder is missing.",
    "Use the trainer's own checkpoint (best_model.pth), which has all of it.",
)


def _differences(tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, and what does not fit with the rest."""
    missing = [name for name in expected if name not in tensors]
    wrong = [
        f"{name} is {list(entry.shape)} and should be {list(expected[name])}"
        for name, entry in tensors.items()
        if entry.shape != expected[name]
    ]
    sentences = []
    if missing:
        sentences.append(f"It lacks {len(missing)} of {len(expected)} tensors: {some(missing)}.")
    if wrong:
        sentences.append(f"Its tensors do not fit together: {some(wrong)}.")
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
    """LoRA in the layout of PEFT: for each layer it changes, A [rank, in] and B [out, rank]."""
    is_whole = any(name.startswith("gpt.") and name.endswith(".text_embedding.weight") for name in tensors)
    if is_whole and any(".base_layer." in name for name in tensors):
        return Architecture("XTTS-v2 with an adapter that is not merged", "xtts", tensors, None, *_NOT_MERGED)
    if any(_F5_LAYER.search(name) for name in tensors):
        if f5_layout.EMBEDDING in tensors:
            return Architecture("F5-TTS with an adapter that is not merged", "f5", tensors, None, *_NOT_MERGED)
        fault = "It is an adapter, and the f5 engine speaks with whole models alone."
        return Architecture("LoRA adapter for F5-TTS", "f5", tensors, None, fault, _MERGE, is_adapter=True)
    own: dict[str, Entry] = {}
    strange = []
    for name, entry in tensors.items():
        found = _LORA.search(name)
        if found is not None and found.end() == len(name):
            own[f"gpt.gpt.h.{found[1]}.{found[2]}.lora_{found[3]}.weight"] = entry
        else:
            strange.append(name)
    if not own:
        fault = f"It is an adapter for another model: it changes {some(map(quoted, strange))}."
        return Architecture("adapter for another model", None, tensors, None, fault, _ADAPTERS, is_adapter=True)
    if strange:
        fault = f"It changes more than c_attn, c_proj and c_fc: {some(map(quoted, strange))}."
        return Architecture("LoRA adapter for XTTS-v2", "xtts", own, None, fault, _MERGE, is_adapter=True)
    fault, cure = _unpaired(own), _TRAIN_AGAIN
    return Architecture("LoRA adapter for XTTS-v2", "xtts", own, None, fault, cure if fault else "", is_adapter=True)


_ADAPTERS = "Adapters for the GPT of XTTS-v2 can be used: on c_attn, c_proj and c_fc of its layers."
_MERGE = "Merge it into its model where it was trained (merge_and_unload in PEFT), and use the merged checkpoint."


def _unpaired(tensors: Tensors) -> str:
    """What of an adapter does not fit together."""
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
    return f"Its tensors do not fit together: those for {some(wrong)}." if wrong else ""


# --- F5 and E2 -------------------------------------------------------------------------------------------------------

_ANCHOR = "text_embed.text_embed.weight"


def _rooted(tensors: Tensors) -> Tensors:
    """Tensors of F5 and E2 by the library's names, whatever the model was a part of; others as they are."""
    anchor = next((name for name in tensors if name.endswith(_ANCHOR)), None)
    if anchor is None or anchor == f5_layout.EMBEDDING:
        return tensors
    backbone = anchor.removesuffix(_ANCHOR)
    outside = backbone.removesuffix(f5_layout.ROOT)
    root = f5_layout.ROOT if outside == backbone else ""  # a backbone alone, without the model around it
    bare = {name.removeprefix(outside): entry for name, entry in tensors.items()}
    return {name if _is_beside(name, entry) else f"{root}{name}": entry for name, entry in bare.items()}


def _is_beside(name: str, entry: Entry) -> bool:
    """Whether it belongs to no backbone, and speaking does not need it: mel filters, and counts of the training."""
    return name.startswith("mel_spec.") or ("." not in name and entry.count <= 1)


def _flow_matching(file: TensorFile, tensors: Tensors) -> Architecture:
    """F5-TTS (a DiT) or E2-TTS (a U-Net of plain layers), with the sizes that were published or others."""
    words, averaged = tensors[f5_layout.EMBEDDING].shape, _is_averaged(file.entries)
    rows = words[0] if words else 0
    sizes = f5_layout.sizes(tensors)
    if sizes is None:
        family = "F5-TTS" if any(name.startswith("transformer.transformer_blocks.") for name in tensors) else "E2-TTS"
        fault = "It has no layers, or its text embedding and its input are no tables."
        return Architecture(family, "f5", tensors, rows, fault, _TRAIN_AGAIN, averaged=averaged)
    expected = f5_layout.expected(sizes)
    own = {name: tensors[name] for name in expected if name in tensors}
    strange = [name for name, entry in tensors.items() if name not in expected and not _is_beside(name, entry)]
    needed = {name: shape for name, shape in expected.items() if name in own or name not in f5_layout.OPTIONAL}
    name, fault, cure = f5_layout.title(sizes), _differences(own, needed), _TRAIN_AGAIN
    if any(_CONVERTED.search(name) for name in strange):
        name, fault, cure = "F5-TTS converted for MLX", *_FOR_MLX
    elif strange:
        fault = f"It has tensors that this model has not: {some(map(quoted, strange))}. {fault}".strip()
        cure = "Use it with the program that it was made for; it is another model, made from the code of F5-TTS."
    elif (missing := needed.keys() - own.keys()) and missing == {*f5_layout.joints(sizes)}:
        fault, cure = _NOT_JOINED
    elif not fault and sizes.n_mels != f5_layout.MELS:
        fault = f"Its mels have {sizes.n_mels} bands, and those of the vocoders here {f5_layout.MELS}."
        cure = _OWN_PROGRAM
    return Architecture(name, "f5", own, rows, fault, cure if fault else "", sizes=sizes, averaged=averaged)


_OWN_PROGRAM = "Use it with the program that it was trained with; no published model is like it."
_NOT_JOINED = (
    "No tensors join the halves of its U-Net: its skip_connect_type is add or none, and only concat is known here.",
    _OWN_PROGRAM,
)
_CONVERTED = re.compile(r"\.(text_blocks|to_out|time_mlp|conv1d|ff)\.layers\.")
_FOR_MLX = (
    "It was converted for MLX, which names and lays out tensors in its own way.",
    "Use the checkpoint that it was converted from.",
)


def _is_averaged(entries: Tensors) -> bool | None:
    """Told by what the trainer calls its average; its tool for smaller files keeps that name for the average alone."""
    parts = {part for name in entries if name.endswith(_ANCHOR) for part in name.split(".")}
    if parts & {"ema_model", "ema"} or any(name.rpartition(".")[2] == "initted" for name in entries):
        return True
    return False if parts & {"model_state_dict", "ema_model_state_dict"} else None


# --- what is no model ------------------------------------------------------------------------------------------------

_PARTS = (
    (r"codebook\.(embed|weight)", "DVAE, which training XTTS needs and speaking does not"),
    (r".*\.(gpt_cond_latent|speaker_embedding)", "the voices built into an XTTS model (speakers_xtts.pth)"),
    (r"(generator\.)?activation_post\.act\.alpha", "a BigVGAN vocoder"),
    (r"(waveform_decoder|hifigan_decoder)\..*|conv_pre\..*", "a HiFi-GAN vocoder"),
    (r"backbone\.embed\.weight", "a Vocos vocoder"),
    (r"encoder\.conv1\.weight", "a Whisper, which writes down speech"),
    (r"enc_p\..*|text_encoder\.emb\.weight", "a VITS model"),
    (r"transformer\.audio_embed\.linear\.weight", "an MMDiT, a backbone of f5-tts without any published model"),
)
_NOT_A_MODEL = "Models of XTTS-v2, F5-TTS and E2-TTS are recognised, and LoRA adapters for XTTS-v2."


def _something_else(file: TensorFile, tensors: Tensors) -> Architecture:
    if not tensors:
        what = "the state of an optimizer" if file.entries else "a file without tensors"
        return Architecture(
            what, None, {}, None, f"It is {what}, not a model.", "Use the model that was saved beside it."
        )
    if list(tensors) == ["tensor"]:
        return Architecture("a single tensor", None, tensors, None, "It is a single tensor, not a model.", _NOT_A_MODEL)
    for pattern, what in _PARTS:
        if any(re.fullmatch(pattern, name) for name in tensors):
            return Architecture(what, None, tensors, None, f"It is {what}.", _NOT_A_MODEL)
    fault = (
        f"It is not a speech model that is known here; it holds {len(tensors)} tensors: {some(map(quoted, tensors))}."
    )
    return Architecture("not a speech model", None, tensors, None, fault, _NOT_A_MODEL)
