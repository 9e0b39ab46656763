"""F5-TTS and E2-TTS by their headers: compared with the library itself; whole or not; under any prefix."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from engines.checkpoints import f5_layout
from engines.checkpoints.f5_layout import PUBLISHED, Sizes
from engines.checkpoints.inspection import Checkpoint, inspect
from engines.modelfiles.tensors import Entry, read
from tests import headers
from tests.headers import DIT, EMA, F5, UNETT, flow
from tests.model_files import safetensors
from tests.spooling import ROOT

Shapes = Mapping[str, tuple[int, ...]]

OWN: Mapping[str, tuple[str, dict[str, Any]]] = {
    "narrow": ("DiT", {"dim": 64, "depth": 3, "heads": 2, "ff_mult": 2, "text_dim": 32, "conv_layers": 2}),
    "without text blocks": ("DiT", {"dim": 96, "depth": 1, "heads": 1, "ff_mult": 4, "text_num_embeds": 7}),
    "normed": ("DiT", {"dim": 64, "depth": 2, "heads": 4, "ff_mult": 3, "text_dim": 48, "qk_norm": "rms_norm"}),
    "long skip": ("DiT", {"dim": 64, "depth": 2, "heads": 2, "ff_mult": 1, "long_skip_connection": True}),
    "odd numbers": ("DiT", {"dim": 80, "depth": 2, "heads": 3, "ff_mult": 2.34, "dim_head": 32, "mel_dim": 80}),
    "U-Net": ("UNetT", {"dim": 64, "depth": 4, "heads": 2, "ff_mult": 4}),
    "U-Net with text blocks": ("UNetT", {"dim": 64, "depth": 2, "heads": 1, "ff_mult": 2, "text_dim": 32,
                                         "conv_layers": 3, "qk_norm": "rms_norm"}),
}  # fmt: skip

LIBRARY = """
import json, sys
from engines.device import runtime
runtime.prepare_torchaudio()
import torch
from ema_pytorch import EMA
from f5_tts.model import CFM, DiT, UNetT

def transformer(name, arguments):
    return {"DiT": DiT, "UNetT": UNetT}[name](**arguments)

shapes = {}
with torch.device("meta"):
    for key, (name, arguments) in json.loads(sys.argv[1]).items():
        state = transformer(name, arguments).state_dict()
        shapes[key] = {f"transformer.{one}": list(tensor.shape) for one, tensor in state.items()}
arguments = {"dim": 64, "depth": 2, "heads": 1, "ff_mult": 2, "text_dim": 32, "conv_layers": 1}
model = CFM(transformer("DiT", {**arguments, "text_num_embeds": 2545, "mel_dim": 100}))
average = EMA(model, include_online_model=False)
states = {"model_state_dict": model.state_dict(), "ema_model_state_dict": average.state_dict()}
optimizer = torch.optim.AdamW(model.parameters())
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
rest = {"optimizer_state_dict": optimizer.state_dict(), "scheduler_state_dict": scheduler.state_dict(), "update": 7}
torch.save({**states, **rest}, sys.argv[2])
print(json.dumps(shapes))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Shapes], Path]:
    """What the library itself builds, in a process of its own: shapes by key, and a file as its trainer saves it."""
    asked = {**OWN, **{f"{model}.yaml": configuration(model) for model in CONFIGURATIONS}}
    file = tmp_path_factory.mktemp("training") / "model_last.pt"
    command = [sys.executable, "-W", "ignore", "-c", LIBRARY, json.dumps(asked), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    return {key: {name: tuple(shape) for name, shape in shapes.items()} for key, shapes in said.items()}, file


CONFIGURATIONS = {
    "F5TTS_Base": "F5-TTS Base", "F5TTS_v1_Base": "F5-TTS Base", "F5TTS_Small": "F5-TTS Small",
    "F5TTS_v1_Small": "F5-TTS Small", "E2TTS_Base": "E2-TTS Base", "E2TTS_Small": "E2-TTS Small",
}  # fmt: skip


def configuration(model: str) -> tuple[str, dict[str, Any]]:
    """Backbone and its arguments from the library's own file."""
    import yaml

    said = yaml.safe_load((headers.library_folder() / f"configs/{model}.yaml").read_text())["model"]
    return said["backbone"], {**said["arch"], "text_num_embeds": 2545}


def entries(shapes: Shapes) -> dict[str, Entry]:
    return {name: Entry("float32", shape, 0, 0) for name, shape in shapes.items()}


def known(shapes: Shapes) -> Sizes:
    found = f5_layout.sizes(entries(shapes))
    assert found is not None
    return found


def saved(folder: Path, shapes: Shapes) -> Checkpoint:
    return inspect(headers.save(folder / "model.safetensors", shapes))


# --- against the library ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", OWN)
def test_sizes_and_tensors_are_those_of_the_library(library: tuple[dict[str, Shapes], Path], key: str) -> None:
    """Read from the shapes of any model that it builds; from the sizes, the same shapes follow again."""
    built, (name, given) = library[0][key], OWN[key]
    sizes = known(built)
    assert f5_layout.expected(sizes) == built
    assert sizes.family == {"DiT": "dit", "UNetT": "unett"}[name]
    told = {one.name: getattr(sizes, one.name) for one in fields(sizes)}
    for argument in given.keys() & told.keys() - {"qk_norm", "ff_mult"}:
        assert told[argument] == given[argument]
    assert int(sizes.dim * sizes.ff_mult) == int(given["dim"] * given["ff_mult"])
    assert (sizes.qk_norm, sizes.n_mels) == ("qk_norm" in given, given.get("mel_dim", 100))
    assert sizes.vocabulary == given.get("text_num_embeds", 256)


@pytest.mark.parametrize(("model", "name"), CONFIGURATIONS.items())
def test_published_sizes_are_those_of_its_configurations(
    library: tuple[dict[str, Shapes], Path], model: str, name: str
) -> None:
    """All that it comes with; Base has 364 tensors."""
    built = library[0][f"{model}.yaml"]
    assert f5_layout.published_as(known(built)) == name
    assert flow(name) == built
    assert len(built) == {"F5-TTS Base": 364}.get(name, len(built))


def test_a_file_of_its_trainer_is_whole_and_averaged(library: tuple[dict[str, Shapes], Path]) -> None:
    """Its average is what speaks; the count of updates, the optimizer and what keeps the average are seen for that."""
    one = inspect(library[1])
    assert one.loads
    assert one.architecture == "F5-TTS of custom size (DiT 64×2, text 32)"
    assert (one.averaged, one.step, one.container, one.precision) == (True, 7, "torch", "float32")
    all_there = read(library[1]).entries
    assert one.tensors == {
        name: all_there[f"ema_model_state_dict.ema_model.{name}"] for name in f5_layout.expected(replace(DIT, heads=1))
    }


def test_the_librarys_vocabulary_has_as_many_symbols_as_the_published_models() -> None:
    from engines.checkpoints import f5_vocabulary

    file = f5_vocabulary.library()
    assert file is not None
    assert f5_vocabulary.read(file).size == f5_vocabulary.LIBRARY_SYMBOLS == headers.LIBRARY_SYMBOLS


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "architecture"),
    [
        (flow("F5-TTS Base"), "F5-TTS Base (DiT 1024×22, text 512)"),
        (flow("F5-TTS Base", symbols=88), "F5-TTS Base (DiT 1024×22, text 512)"),
        (flow("F5-TTS Small"), "F5-TTS Small (DiT 768×18, text 512)"),
        (flow("E2-TTS Base"), "E2-TTS Base (UNetT 1024×24)"),
        (flow("E2-TTS Small"), "E2-TTS Small (UNetT 768×20)"),
        (flow(DIT), "F5-TTS of custom size (DiT 64×2, text 32)"),
        (flow(UNETT), "E2-TTS of custom size (UNetT 64×2)"),
        (flow(replace(DIT, qk_norm=True)), "F5-TTS of custom size (DiT 64×2, text 32, qk_norm)"),
        (flow(replace(PUBLISHED["F5-TTS Base"], long_skip_connection=True)),
         "F5-TTS of custom size (DiT 1024×22, text 512, long skip)"),
        (flow(replace(PUBLISHED["F5-TTS Base"], heads=8)), "F5-TTS of custom size (DiT 1024×22, text 512)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "ema_model.", "ema_model.module.", "model_state_dict.module.", "cfm.", "a.b."])
def test_f5_and_e2_are_told_apart(tmp_path: Path, shapes: Shapes, architecture: str, prefix: str) -> None:
    """The report that started voicespool: a healthy F5 that was loaded as an E2."""
    symbols = shapes[f5_layout.EMBEDDING][0] - 1
    (tmp_path / "vocab.txt").write_text(" \n" + "".join(f"{n}\n" for n in range(symbols - 1)))
    one = saved(tmp_path, {f"{prefix}{name}": shape for name, shape in shapes.items()})
    assert one.loads, one.why_not
    assert (one.engine, one.architecture, one.vocabulary) == ("f5", architecture, symbols + 1)
    assert set(one.tensors) == set(shapes)
    assert one.sizes is not None
    assert one.vocab == tmp_path / "vocab.txt"


def test_a_backbone_alone_is_as_good(tmp_path: Path) -> None:
    """Saved without the model around it, its names lack `transformer.`."""
    one = saved(tmp_path, {**{name.removeprefix("transformer."): shape for name, shape in F5.items()}, **EMA})
    assert one.loads, one.why_not
    assert set(one.tensors) == set(F5)


def test_the_rotary_table_may_be_missing(tmp_path: Path) -> None:
    """It follows from the sizes."""
    shapes = {name: shape for name, shape in F5.items() if not name.endswith("inv_freq")}
    one = saved(tmp_path, shapes)
    assert one.loads, one.why_not
    assert set(one.tensors) == set(shapes)


def test_without_the_rotary_table_norms_tell_how_wide_heads_are(tmp_path: Path) -> None:
    """Four heads of 32, not two of 64."""
    wanted = replace(DIT, dim=128, heads=4, dim_head=32, qk_norm=True)
    one = saved(tmp_path, without("inv_freq", shapes=flow(wanted)))
    assert one.loads, one.why_not
    assert one.sizes == replace(wanted, vocabulary=headers.LIBRARY_SYMBOLS)


def test_what_speaking_does_not_need_is_left_out(tmp_path: Path) -> None:
    """The mel filters of the first versions, and what keeps the average."""
    mels = {
        "ema_model.mel_spec.mel_stft.mel_scale.fb": (513, 100),
        "ema_model.mel_spec.mel_stft.spectrogram.window": (1024,),
    }
    one = saved(tmp_path, {**flow(prefix="ema_model."), **mels, **EMA, "global_step": (1,)})
    assert one.loads, one.why_not
    assert set(one.tensors) == set(F5)


@pytest.mark.parametrize(
    ("state", "averaged"),
    [
        ({"ema_model_state_dict": {**flow(prefix="ema_model."), **EMA}}, True),
        ({"ema_model_state_dict": F5}, False),  # the library's tool for smaller files: the model as it was, no average
        ({"model_state_dict": F5}, False),
        ({"model_state_dict": F5, "ema_model_state_dict": flow(prefix="ema_model.")}, True),
        ({"model_state_dict": {**flow(prefix="ema_model."), **EMA}}, True),
        ({**F5, **EMA}, True),
        ({"state_dict": flow(prefix="model.")}, None),
        (F5, None),
    ],
)
def test_whether_a_model_is_an_average_is_told_by_its_names(
    tmp_path: Path, state: Mapping[str, Any], averaged: bool | None
) -> None:
    """Of the trainer and of its tool that makes files smaller."""
    one = inspect(headers.save_torch(tmp_path / "model.pt", state))
    assert one.loads, one.why_not
    assert one.averaged is averaged
    assert set(one.tensors) == set(F5)


def test_of_a_model_and_its_average_the_average_speaks(tmp_path: Path) -> None:
    """Also where the model that is averaged is kept inside the average."""
    both = {**flow(prefix="ema_model_state_dict.online_model."), **flow(prefix="ema_model_state_dict.ema_model.")}
    path = headers.save(tmp_path / "model.safetensors", both)
    entry = inspect(path).tensors[f5_layout.INPUT]
    assert entry == read(path).entries[f"ema_model_state_dict.ema_model.{f5_layout.INPUT}"]


@pytest.mark.parametrize(
    ("kind", "precision"), [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("F8_E4M3", "float8_e4m3fn")]
)
def test_any_floating_precision_will_do(tmp_path: Path, kind: str, precision: str) -> None:
    one = inspect(headers.save(tmp_path / "model.safetensors", F5, kind))
    assert (one.precision, one.loads) == (precision, True)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    """Quantised for another program, which has the scales."""
    one = inspect(headers.save(tmp_path / "model.safetensors", F5, "I8"))
    assert one.why_not == "Its weights are int8: it was quantised for another program."


# --- what does not fit together --------------------------------------------------------------------------------------

BLOCK = "transformer.transformer_blocks.1"


def without(*parts: str, shapes: Shapes = F5) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (without("transformer_blocks.0."), "It lacks 14 of 54 tensors: transformer.transformer_blocks.0.attn_norm"),
        (without("blocks.1.attn.to_k.bias"), f"It lacks 1 of 54 tensors: {BLOCK}.attn.to_k.bias."),
        (without("layers.3.0.", shapes=flow(replace(UNETT, depth=4))), "It lacks 1 of"),
        (without("layers.2.0.", "layers.3.0.", shapes=flow(replace(UNETT, depth=4))), "type is add or none"),
        (without("layers.1.", shapes=flow(UNETT)), "tensors: transformer.layers.1."),
        (without("proj_out"), "It lacks 2 of 54 tensors: transformer.proj_out.weight"),
        (without("time_embed", "norm_out", "conv1d"), "It lacks 10 of 54 tensors"),
        ({**F5, f"{BLOCK}.attn.to_v.weight": (64, 32)}, f"{BLOCK}.attn.to_v.weight is [64, 32] and should be [64, 64]"),
        ({**F5, f5_layout.INPUT: (64, 300)}, f"{f5_layout.INPUT} is [64, 300] and should be [64, 232]"),
        ({**F5, "transformer.text_embed.text_blocks.0.grn.gamma": (64,)}, "is [64] and should be [1, 1, 64]"),
        ({**F5, "transformer.proj_out.weight": (80, 64)}, "do not match"),
        (flow(replace(DIT, n_mels=80)), "Its mel spectrograms have 80 bands; the vocoders need 100."),
        ({**F5, "transformer.rotary_embed.inv_freq": (0,)}, "inv_freq is [0] and should be [32]"),
        ({**F5, f5_layout.EMBEDDING: (2546,)}, "is not a matrix"),
        ({**F5, f5_layout.INPUT: ()}, "is not a matrix"),
        (without("transformer_blocks"), "has no layers"),
        ({**F5, f"{BLOCK}.attn.style.weight": (1,)}, "It has tensors that F5-TTS does not have: "),
        ({**F5, "style_encoder.weight": (1,)}, "'style_encoder.weight'"),
        ({**F5, "transformer.transformer_blocks.1000.attn.to_q.weight": (64, 64)}, "transformer_blocks.1000.attn"),
        ({**F5, "transformer.transformer_blocks.\x1b[2J.a": (1,)}, r"'transformer.transformer_blocks.\x1b[2J.a'"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_together_is_refused_in_words(tmp_path: Path, shapes: Shapes, words: str) -> None:
    """What is missing, what has another shape, what no such model has: the first few of them, and what to do."""
    one = saved(tmp_path, shapes)
    assert (one.engine, one.loads) == ("f5", False)
    assert words in one.why_not
    assert one.why_not.isprintable()
    assert len(one.why_not) < 500
    assert one.cure


def test_an_mlx_conversion_is_named(tmp_path: Path) -> None:
    """Of all the ways in which its names differ, none is shown."""
    renamed = {
        name.replace("text_blocks.", "text_blocks.layers.").replace("to_out.", "to_out.layers."): shape
        for name, shape in F5.items()
    }
    one = saved(tmp_path, renamed)
    assert one.why_not == "It was converted for MLX, which has other names and shapes of tensors."


@pytest.mark.parametrize("lora", ["lora_A.weight", "lora_A.default.weight", "hada_w1_a", "lokr_w1"])
@pytest.mark.parametrize(
    "layer", ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.ff.0.0", "layers.3.2.to_out.0"]
)
def test_an_adapter_is_refused_in_words(tmp_path: Path, lora: str, layer: str) -> None:
    """It changes a model instead of being one."""
    one = saved(tmp_path, {f"base_model.model.transformer.{layer}.{lora}": (8, 64)})
    assert (one.engine, one.architecture, one.is_adapter, one.loads) == ("f5", "LoRA adapter for F5-TTS", True, False)
    assert one.why_not == "It is an adapter; the f5 engine supports only whole models."
    assert "Merge it" in one.cure


def test_a_model_with_a_loose_adapter_is_refused_in_words(tmp_path: Path) -> None:
    layer = "transformer.transformer_blocks.0.attn.to_q"
    loose = {f"{layer}.base_layer.weight": (64, 64), f"{layer}.lora_A.default.weight": (8, 64)}
    one = saved(tmp_path, {**without("blocks.0.attn.to_q"), **loose})
    assert (one.engine, one.loads) == ("f5", False)
    assert "not merged" in one.why_not


def test_an_mmdit_is_named(tmp_path: Path) -> None:
    """The library's third backbone."""
    shapes = {"transformer.audio_embed.linear.weight": (64, 200), f5_layout.EMBEDDING: (257, 64)}
    one = saved(tmp_path, shapes)
    assert (one.engine, one.loads) == (None, False)
    assert "an MMDiT" in one.why_not


# --- hostile headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shapes",
    [
        {f5_layout.EMBEDDING: (1 << 61, 0), f5_layout.INPUT: (0, 0), "transformer.layers.0.1.g": ()},
        {f5_layout.EMBEDDING: (0, 1 << 61), f5_layout.INPUT: (1 << 61, 0), f"{BLOCK}.attn.to_q.weight": (1 << 61, 0)},
        {f5_layout.EMBEDDING: (1,) * 32, f5_layout.INPUT: (1,) * 32},
        {**F5, "transformer.transformer_blocks.999.ff.ff.0.0.weight": (0, 1 << 61)},
        {**F5, "transformer.text_embed.text_blocks.999.dwconv.weight": (1,)},
        {**F5, "transformer.rotary_embed.inv_freq": (1 << 30, 0)},
        {**F5, **{f"transformer.transformer_blocks.{'9' * n}.x": (1,) for n in range(1, 100)}},
        {**{f"transformer.x{n}": (1,) for n in range(30_000)}, **F5},
    ],
)
def test_absurd_sizes_are_refused_within_bounds(tmp_path: Path, shapes: Shapes) -> None:
    """Numbers of layers are bounded, so that what is compared is; what is said is short."""
    one = saved(tmp_path, shapes)
    assert one.loads is False
    assert 0 < len(one.why_not) < 1000
    sizes = f5_layout.sizes(entries(shapes))
    assert sizes is None or len(f5_layout.expected(sizes)) < 30_000


def test_a_million_names_are_not_read(tmp_path: Path) -> None:
    """A header of that size is refused by its length."""
    names = b'{%s"z":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}' % b"".join(
        b'"transformer.%d":{},' % n for n in range(1_000_000)
    )
    one = inspect(safetensors(tmp_path / "model.safetensors", names))
    assert "its header claims" in one.why_not


# --- compared with published ones ------------------------------------------------------------------------------------


def test_a_file_is_compared_with_a_published_model() -> None:
    """The report's file and the model that it was taken for."""
    found = f5_layout.differences(known(flow("F5-TTS Base")), PUBLISHED["E2-TTS Base"])
    assert found[:3] == [
        ("backbone", "DiT, 22 blocks, 1024 wide", "UNetT, 24 layers, 1024 wide"),
        ("text embedding", "[2546, 512]", "[2546, 100]"),
        ("input", "[1024, 712]", "[1024, 300]"),
    ]
    assert [what for what, _has, _needs in found[3:]] == ["text convolutions", "feed-forward"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_does_not_differ_from_itself(name: str) -> None:
    """Whatever its vocabulary."""
    assert not f5_layout.differences(known(flow(name, symbols=88)), PUBLISHED[name])
