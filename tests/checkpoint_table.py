"""The tables of docs/CHECKPOINTS.md, made by inspecting files with real headers.

    python -m tests.checkpoint_table

writes the tables into the page; a test compares them.
"""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engines.checkpoints.f5_layout import PUBLISHED
from engines.checkpoints.inspection import Checkpoint, inspect
from tests import headers, model_files
from tests.headers import EMA, Shapes, flow, save, save_torch
from tests.spooling import ROOT
from watcher.cli.display.checkpoints import in_short

PAGE = ROOT / "docs/CHECKPOINTS.md"
BEGIN = (
    "<!-- The tables below are made by `python -m tests.checkpoint_table`; a test compares them with this page. -->\n"
)
END = "<!-- end of the tables -->\n"

Build = Callable[[Path], Path]
Case = tuple[str, Build]

BASE = "F5-TTS Base"
NARROW = replace(PUBLISHED[BASE], dim=640, depth=12, heads=10, text_dim=256)
MELS: Shapes = {"mel_spec.mel_stft.mel_scale.fb": (513, 100), "mel_spec.mel_stft.spectrogram.window": (1024,)}
REPORT: Shapes = {**flow(BASE, prefix="ema_model."), **EMA}
"""The report that started voicespool: a healthy fine-tune that was loaded as an E2."""


def safetensors(shapes: Shapes, kind: str = "F32", **metadata: object) -> Build:
    return lambda folder: save(folder / "model_last.safetensors", shapes, kind, **metadata)


def torch(state: Mapping[str, object], kind: str = "Float") -> Build:
    return lambda folder: save_torch(folder / "model_last.pt", state, kind)


def raw(content: bytes, name: str = "model_last.pt") -> Build:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def with_files(files: Mapping[str, str], model: Build) -> Build:
    """A model with files next to it, or elsewhere in the same models/."""

    def build(folder: Path) -> Path:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        return model(folder)

    return build


def renamed(shapes: Shapes, **words: str) -> Shapes:
    """Tensors with words in their names replaced."""
    found = {}
    for name, shape in shapes.items():
        for old, new in words.items():
            name = name.replace(f"{old}.", new)  # noqa: PLW2901 - word after word
        found[name] = shape
    return found


def without(part: str, shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if part not in name}


def symbols(count: int, end: str = "\n") -> str:
    return "".join(f"{symbol}{end}" for symbol in (" ", *map(str, range(count - 1))))


# --- the cases -------------------------------------------------------------------------------------------------------

ARCHITECTURES: Sequence[Case] = [
    ("F5-TTS Base, v0 or v1", safetensors(REPORT)),
    ("F5-TTS Small", safetensors(flow("F5-TTS Small", prefix="ema_model."))),
    ("E2-TTS Base", safetensors(flow("E2-TTS Base", prefix="ema_model."))),
    ("E2-TTS Small", safetensors(flow("E2-TTS Small", prefix="ema_model."))),
    ("a DiT of custom size", safetensors(flow(NARROW))),
    ("a DiT with `qk_norm` and a long skip connection",
     safetensors(flow(replace(NARROW, qk_norm=True, long_skip_connection=True)))),
    ("a UNetT with text convolutions", safetensors(flow(replace(headers.UNETT, text_dim=64, conv_layers=2)))),
    ("XTTS-v2", lambda folder: save(folder / "model.safetensors", headers.xtts(words=6681, width=1024))),
    ("LoRA adapter for XTTS-v2", with_files({"adapter_config.json": "{}"}, safetensors({
        "base_model.model.gpt.gpt.h.0.attn.c_attn.lora_A.weight": (8, 1024),
        "base_model.model.gpt.gpt.h.0.attn.c_attn.lora_B.weight": (3072, 8)}))),
]  # fmt: skip

CONTAINERS: Sequence[Case] = [
    ("safetensors with `ema_model.` before each name", safetensors(REPORT)),
    ("safetensors with the library's own names", safetensors(flow(BASE))),
    ("`.pt` of the trainer, with optimizer", torch({
        "model_state_dict": flow(BASE), "optimizer_state_dict": {"state": {"0": {"exp_avg": (2546, 512)}}},
        "ema_model_state_dict": REPORT, "scheduler_state_dict": {"last_epoch": 9}, "update": 9000})),
    ("`.pt` pruned to the average (EMA)", torch({"ema_model_state_dict": REPORT})),
    ("`.pt` pruned to the last weights", torch({"ema_model_state_dict": flow(BASE)})),
    ("trained on several GPUs (`module.`)", safetensors(flow(BASE, prefix="module."))),
    ("compiled (`_orig_mod.`)", safetensors(flow(BASE, prefix="_orig_mod."))),
    ("of another trainer (`state_dict`, `model.`)", torch({"state_dict": flow(BASE, prefix="model.")})),
    ("inside another model (`cfm.`)", safetensors(flow(BASE, prefix="cfm."))),
    ("only the backbone, names without `transformer.`", safetensors(renamed(flow(BASE), transformer=""))),
    ("without the rotary table, which follows from the sizes", safetensors(without("inv_freq", flow(BASE)))),
]  # fmt: skip

PRECISIONS: Sequence[Case] = [
    (kind, safetensors(REPORT, name))
    for name, kind in (("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("F64", "float64"),
                       ("F8_E4M3", "float8"), ("I8", "int8, quantised for another program"))
]  # fmt: skip

_OF_88 = safetensors(flow(BASE, symbols=88))
VOCABULARIES: Sequence[Case] = [
    ("none, 2545 symbols", safetensors(REPORT)),
    ("none, 88 symbols", _OF_88),
    ("none, 256 symbols", safetensors(flow(BASE, symbols=256))),
    ("`vocab.txt` of 88 lines, 88 symbols", with_files({"vocab.txt": symbols(88)}, _OF_88)),
    ("the same with Windows' line ends and a byte order mark",
     with_files({"vocab.txt": "\ufeff" + symbols(88, "\r\n")}, _OF_88)),
    ("the same without a final newline", with_files({"vocab.txt": symbols(88)[:-1]}, _OF_88)),
    ("the same with empty lines at its end", with_files({"vocab.txt": symbols(88) + "\n\n"}, _OF_88)),
    ("the same with an empty first line", with_files({"vocab.txt": symbols(88)[1:]}, _OF_88)),
    ("the same without its first line, the space", with_files({"vocab.txt": symbols(88)[2:]}, _OF_88)),
    ("`model_last.vocab.txt` and another `vocab.txt`",
     with_files({"model_last.vocab.txt": symbols(88), "vocab.txt": symbols(99)}, _OF_88)),
    ("only `vocab_japanese.txt`", with_files({"vocab_japanese.txt": symbols(88)}, _OF_88)),
    ("`vocab.txt` of 2000 lines, 88 symbols", with_files({"vocab.txt": symbols(2000)}, _OF_88)),
    ("the same, and one of 88 for another model",
     with_files({"vocab.txt": symbols(2000), "rui/vocab.txt": symbols(88)}, _OF_88)),
    ("the same, and one of 88 in `data/` of the training run",
     with_files({"vocab.txt": symbols(2000), "data/ana_char/vocab.txt": symbols(88)}, _OF_88)),
    ("`vocab.txt` of 2000 lines, 2545 symbols", with_files({"vocab.txt": symbols(2000)}, safetensors(REPORT))),
]  # fmt: skip

_ARCH = {"dim": 1024, "depth": 22, "heads": 16, "ff_mult": 2, "text_dim": 512, "conv_layers": 4}
_V0 = {"text_mask_padding": False, "pe_attn_head": 1}


def _configuration(arch: Mapping[str, object], **more: object) -> str:
    return json.dumps({"model": {**more, "arch": arch}})


VARIANTS: Sequence[Case] = [
    ("nothing", safetensors(REPORT)),
    ("`model_last.yaml`: `variant: v1`", with_files({"model_last.yaml": "variant: v1"}, safetensors(REPORT))),
    ("`model.yaml`: `variant: v0`", with_files({"model.yaml": "variant: v0"}, safetensors(REPORT))),
    ("`model_last.yaml`: `variant: v2`", with_files({"model_last.yaml": "variant: v2"}, safetensors(REPORT))),
    ("a configuration of f5-tts with its flags",
     with_files({"config.yaml": _configuration({**_ARCH, **_V0}, backbone="DiT")}, safetensors(REPORT))),
    ("one with `backbone`, without flags",
     with_files({"config.yaml": _configuration(_ARCH, backbone="DiT")}, safetensors(REPORT))),
    ("one from before version 1.0", with_files({"config.yaml": _configuration(_ARCH)}, safetensors(REPORT))),
    ("one for another model",
     with_files({"config.yaml": _configuration({**_ARCH, "depth": 18}, backbone="DiT")}, safetensors(REPORT))),
    ("`.hydra/config.yaml` of its training run",
     with_files({"2025-03-01/12-00-00/.hydra/config.yaml": _configuration({**_ARCH, **_V0}, backbone="DiT")},
                safetensors(REPORT))),
    ("`setting.json` of the library's training page",
     with_files({"setting.json": json.dumps({"exp_name": "F5TTS_v1_Base"})}, safetensors(REPORT))),
    ("mel filters in the file", safetensors({**REPORT, **MELS})),
    ("a trainer's file that counts `step`", torch({
        "model_state_dict": flow(BASE), "optimizer_state_dict": {"state": 1}, "ema_model_state_dict": REPORT,
        "scheduler_state_dict": {"last_epoch": 9}, "step": 9000})),
    ("a configuration in the metadata of the file", safetensors(REPORT, config={**_ARCH, **_V0})),
    ("E2-TTS Base and nothing else", safetensors(flow("E2-TTS Base"))),
    ("a name: `F5TTS_v1.safetensors`", lambda folder: save(folder / "F5TTS_v1.safetensors", REPORT)),
]  # fmt: skip

_LLM: Shapes = {f"model.layers.{n}.self_attn.{p}_proj.weight": (64, 64) for n in range(4) for p in "qkv"}
OTHERS: Sequence[Case] = [
    ("a block is missing", safetensors(without("transformer_blocks.7.", REPORT))),
    ("half of the layers are missing", safetensors(
        {name: shape for name, shape in flow("E2-TTS Base").items() if ".layers.1" not in name})),
    ("E2-TTS with `skip_connect_type` `add` or `none`", safetensors(
        {name: shape for name, shape in flow("E2-TTS Base").items() if shape != (1024, 2048)})),
    ("mel spectrograms of 80 bands", safetensors(flow(replace(NARROW, n_mels=80)))),
    ("a tensor of another shape", safetensors({**REPORT, "ema_model.transformer.proj_out.weight": (80, 1024)})),
    ("additional tensors",
     safetensors({**REPORT, "ema_model.transformer.style_embed.weight": (10, 512)})),
    ("F5-TTS converted for MLX",
     safetensors(renamed(flow(BASE), text_blocks="text_blocks.layers.", to_out="to_out.layers."))),
    ("LoRA adapter for F5-TTS",
     safetensors({"base_model.model.transformer.transformer_blocks.0.attn.to_q.lora_A.weight": (8, 1024)})),
    ("MMDiT", safetensors({"transformer.audio_embed.linear.weight": (1024, 200)})),
    ("XTTS-v1", safetensors(
        {**without("perceiver", headers.xtts()), "gpt.prompt_embedding.weight": (8194, 64)})),
    ("DVAE of XTTS", safetensors({"codebook.embed": (512, 1024)})),
    ("voices of XTTS", torch({"Ana Florence": {"gpt_cond_latent": (1, 32, 1024), "speaker_embedding": (1, 512, 1)}})),
    ("HiFi-GAN", safetensors({"conv_pre.weight": (512, 80, 7)})),
    ("Vocos", safetensors({"backbone.embed.weight": (512, 100, 7)})),
    ("BigVGAN", safetensors({"activation_post.act.alpha": (24,), "conv_pre.bias": (1536,)})),
    ("VITS", safetensors({"enc_p.emb.weight": (178, 192)})),
    ("a language model", safetensors(_LLM)),
    ("the state of an optimizer", torch({"optimizer_state_dict": {"state": {"0": {"exp_avg": (8,)}}}})),
    ("an empty file", raw(b"")),
    ("a download that was cut off", lambda folder: _cut_off(save(folder / "model_last.safetensors", REPORT))),
    ("a web page", raw(b"<!DOCTYPE html><title>Not found</title>")),
    ("a Git LFS pointer", raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1348438912\n")),
    ("GGUF", raw(b"GGUF\3\0\0\0")),
    ("a TorchScript program", lambda folder: model_files.torch_zip(
        folder / "model_last.pt", pickle.dumps({}), {"constants.pkl": b""})),
    ("a file from torch before 1.6", raw(pickle.dumps(119547037146038801333356) + pickle.dumps(1001))),
    ("a file with code in it", lambda folder: model_files.torch_zip(
        folder / "model_last.pt", pickle.dumps(model_files.Runs(Path("ran"))))),
    ("a text file", raw(b"hello")),
]  # fmt: skip


def _cut_off(path: Path) -> Path:
    with path.open("r+b") as file:
        file.truncate(1_000_000)
    return path


# --- the tables ------------------------------------------------------------------------------------------------------


def _in_short(found: Checkpoint) -> str:
    return f"{in_short(found)}{'' if found.loads else f'. {found.why_not}'}"


def _vocabulary(found: Checkpoint) -> str:
    if not found.loads:
        return f"does not load. {found.why_not} {found.cure}"
    used = f"`{found.vocab.name}`" if found.vocab is not None and not found.warnings else ""
    return f"loads, with {used}" if used else f"loads; {found.warnings[0]}"


def _variant(found: Checkpoint) -> str:
    assert found.variant is not None
    if not found.loads:
        return f"does not load. {found.why_not} {found.cure}"
    variant = found.variant
    return f"{variant.name}: {variant.evidence}{f' ({variant.hint})' if variant.hint else ''}"


TABLES: Sequence[tuple[str, str, Sequence[Case], Callable[[Checkpoint], str]]] = [
    ("Architectures", "model", ARCHITECTURES, _in_short),
    ("Containers and prefixes", "F5-TTS Base as", CONTAINERS, _in_short),
    ("Precision", "F5-TTS Base in", PRECISIONS, _in_short),
    ("Vocabularies", "next to an F5-TTS Base", VOCABULARIES, _vocabulary),
    ("v0 or v1", "evidence for an F5-TTS Base", VARIANTS, _variant),
    ("What does not load", "file", OTHERS, _in_short),
]


def tables() -> str:
    """All tables, as Markdown."""
    return "\n".join(_table(*table) for table in TABLES)


def _table(title: str, what: str, cases: Sequence[Case], shown: Callable[[Checkpoint], str]) -> str:
    lines = [f"### {title}", "", f"| {what} | result |", "|---|---|"]
    lines += [f"| {name} | {_cell(shown(_built(build)))} |" for name, build in cases]
    return "\n".join([*lines, ""])


def _built(build: Build) -> Checkpoint:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        models.mkdir()
        return inspect(build(models), models)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def page(text: str) -> str:
    """The page with new tables."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
