"""v0 or v1: told by what lies beside a model, by what it holds, or not at all; never by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.checkpoints.f5_variant import V0, V1, Flags, Variant
from engines.checkpoints.inspection import Checkpoint, inspect
from tests import headers
from tests.headers import DIT, EMA, F5, flow

MELS = {"mel_spec.mel_stft.mel_scale.fb": (513, 100), "mel_spec.mel_stft.spectrogram.window": (1024,)}
CONFIGURATIONS = {
    "F5TTS_Base": ("F5-TTS Base", V0), "F5TTS_v1_Base": ("F5-TTS Base", V1), "F5TTS_Small": ("F5-TTS Small", V0),
    "F5TTS_v1_Small": ("F5-TTS Small", V1), "E2TTS_Base": ("E2-TTS Base", V0), "E2TTS_Small": ("E2-TTS Small", V0),
}  # fmt: skip


def library_configuration(model: str) -> str:
    return (headers.library_folder() / f"configs/{model}.yaml").read_text(encoding="utf-8")


def told(folder: Path, sizes: Any = DIT, beside: Mapping[str, str] | None = None) -> Variant:
    """The variant of a model with files beside it."""
    for name, text in (beside or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return variant(inspect(headers.save(folder / "ana.safetensors", flow(sizes))))


def variant(one: Checkpoint) -> Variant:
    assert one.variant is not None
    assert one.loads, one.why_not
    return one.variant


def arch(**flags: object) -> str:
    """A training configuration for the model of these tests, as version 1 writes it."""
    sizes = {"dim": 64, "depth": 2, "heads": 1, "ff_mult": 2, "text_dim": 32, "conv_layers": 1}
    return yaml.safe_dump({"model": {"name": "mine", "backbone": "DiT", "arch": {**sizes, **flags}}})


# --- beside it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "flags"), [("v0", V0), ("v1", V1)])
@pytest.mark.parametrize("sidecar", ["ana.yaml", "ana.yml", "model.yaml", "ana.json"])
def test_a_word_beside_the_model_is_enough(tmp_path: Path, sidecar: str, name: str, flags: Flags) -> None:
    """For people who know, in one line."""
    text = json.dumps({"variant": name}) if sidecar.endswith("json") else f"variant: {name}  # heard it\n"
    found = told(tmp_path, beside={sidecar: text})
    assert (found.flags, found.name, found.source) == (flags, name, tmp_path / sidecar)
    assert found.evidence == f"{sidecar} next to it specifies {name}"


@pytest.mark.parametrize("model", CONFIGURATIONS)
@pytest.mark.parametrize("name", ["ana.yaml", "model.yaml", "F5TTS.yaml", "2025-03-01/12-00-00/.hydra/config.yaml"])
def test_the_librarys_configurations_tell(tmp_path: Path, model: str, name: str) -> None:
    """Copied beside the model, or where Hydra leaves it in a training run."""
    sizes, flags = CONFIGURATIONS[model]
    found = told(tmp_path, sizes, {name: library_configuration(model)})
    assert (found.flags, found.vocoder) == (flags, "vocos")
    assert name in found.evidence


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, V1),
        ({"text_mask_padding": True, "pe_attn_head": None}, V1),
        ({"text_mask_padding": False, "pe_attn_head": 1}, V0),
        ({"text_mask_padding": False}, Flags(text_mask_padding=False, pe_attn_head=None)),
        ({"pe_attn_head": 4}, Flags(text_mask_padding=True, pe_attn_head=4)),
        ({"text_mask_padding": True, "text_embedding_average_upsampling": True},
         Flags(text_mask_padding=True, pe_attn_head=None, average_upsampling=True)),
        ({"pe_attn_head": 0}, Flags(text_mask_padding=True, pe_attn_head=0)),
        ({"text_mask_padding": False, "text_embedding_average_upsampling": True}, None),
        ({"text_mask_padding": "maybe"}, None),
        ({"pe_attn_head": "some"}, None),
        ({"pe_attn_head": -1}, None),
        ({"pe_attn_head": [1]}, None),
    ],
)  # fmt: skip
def test_flags_are_taken_as_they_stand(tmp_path: Path, flags: Mapping[str, object], expected: Flags | None) -> None:
    """In a configuration of version 1 they may be left out, and are then as in the library's v1."""
    found = told(tmp_path, beside={"ana.yaml": arch(**flags)})
    assert found.flags == expected
    assert found.name == ({V0: "v0", V1: "v1"}.get(expected, "custom") if expected else "unknown")


def test_a_configuration_of_before_version_1_means_v0(tmp_path: Path) -> None:
    """It names no backbone, and its flags had not been invented."""
    old = yaml.safe_load(arch())
    del old["model"]["backbone"]
    assert told(tmp_path, beside={"ana.yaml": yaml.safe_dump(old)}).flags == V0


@pytest.mark.parametrize(
    ("experiment", "flags"),
    [("F5TTS_Base", V0), ("F5TTS_v1_Base", V1), ("F5-TTS", V0), ("E2TTS_Base", None), ("mine", None)],
)
def test_settings_of_the_librarys_training_page_tell(tmp_path: Path, experiment: str, flags: Flags | None) -> None:
    """It saves them beside the checkpoints; those for E2 are of another model."""
    settings = {"exp_name": experiment, "learning_rate": 1e-05, "finetune": True, "tokenizer_file": ""}
    assert told(tmp_path, beside={"setting.json": json.dumps(settings, indent=4)}).flags == flags


@pytest.mark.parametrize("text", ['{"dim": 64, "depth": 2, "text_mask_padding": False, "pe_attn_head": 1}'])
def test_arguments_of_the_backbone_tell(tmp_path: Path, text: str) -> None:
    """As the library's pages give them for models of its users; without the flags they may be older than these."""
    assert told(tmp_path, beside={"ana.json": text}).flags == V0
    assert told(tmp_path, beside={"ana.json": '{"dim": 64, "depth": 2}'}).flags is None


def test_a_models_own_file_comes_before_those_of_its_training(tmp_path: Path) -> None:
    """And NAME.yaml before model.yaml."""
    beside = {"ana.yaml": "variant: v1", "model.yaml": "variant: v0", "setting.json": '{"exp_name": "F5TTS_Base"}'}
    assert told(tmp_path, beside=beside).flags == V1


def test_another_models_file_is_not_read(tmp_path: Path) -> None:
    """Several models in one folder, each with its own."""
    headers.save(tmp_path / "rui.safetensors", F5)
    assert told(tmp_path, beside={"rui.yaml": "variant: v0"}).flags is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("dim: 64", "dim: 128"), "ana.yaml is for another model (dim 128, not 64)"),
        (("depth: 2", "depth: 22"), "ana.yaml is for another model (depth 22, not 2)"),
        (("DiT", "UNetT"), "ana.yaml is for another model (UNetT)"),
    ],
)
def test_a_configuration_of_another_model_is_passed_over(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    """Its sizes are not the file's, and that is said."""
    found = told(tmp_path, beside={"ana.yaml": arch(text_mask_padding=False).replace(*change)})
    assert found.flags is None
    assert words in found.evidence


def test_configurations_that_contradict_each_other_do_not_tell(tmp_path: Path) -> None:
    """Two runs in one folder, under different flags."""
    runs = {"2025-03-01/12-00-00/.hydra/config.yaml": arch(pe_attn_head=1, text_mask_padding=False),
            "2025-03-02/12-00-00/.hydra/config.yaml": arch()}  # fmt: skip
    found = told(tmp_path, beside=runs)
    assert found.flags is None
    assert "2025-03-01" in found.evidence
    assert "2025-03-02" in found.evidence


@pytest.mark.parametrize(
    ("text", "why_not"),
    [
        ("variant: v2", "ana.yaml next to it has `variant: v2`; supported: v0, v1."),
        ("variant: {v0: x}", "ana.yaml next to it has `variant: {'v0': 'x'}`; supported: v0, v1."),
        ('variant: "v0 "', "ana.yaml next to it has `variant: v0 `; supported: v0, v1."),
        ("variant: v0\nvocoder: wavenet", "ana.yaml next to it has `vocoder: wavenet`; supported: vocos, bigvgan."),
    ],
)
def test_a_word_that_is_not_known_is_an_error(tmp_path: Path, text: str, why_not: str) -> None:
    """Somebody wanted to say something. In a file that may be anybody's it does not matter."""
    (tmp_path / "ana.yaml").write_text(text)
    one = inspect(headers.save(tmp_path / "ana.safetensors", F5))
    assert (one.loads, one.why_not) == (False, why_not)
    (tmp_path / "ana.yaml").rename(tmp_path / "other.yaml")
    assert variant(inspect(one.path)).flags is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("variant: [", "ana.yaml can't be read (it is not YAML)"),
        ("title: Ana\n", "ana.yaml specifies no variant"),
        ("model: [1]\n", "ana.yaml specifies no variant"),
        ("model: {arch: 1}\n", "ana.yaml specifies no variant"),
        ("a: &a {b: c}\nd: *a\n", "can't be read (it has aliases)"),
        ("{variant: v0, variant: v1}", "can't be read (it has a duplicate key)"),
    ],
)
def test_what_does_not_tell_is_named(tmp_path: Path, text: str, words: str) -> None:
    """It may be somebody else's; whoever wonders sees it."""
    found = told(tmp_path, beside={"ana.yaml": text})
    assert (found.flags, found.name) == (None, "unknown")
    assert found.evidence.startswith("neither the file nor those next to it specify v0 or v1; ")
    assert found.source == tmp_path / "ana.yaml"  # so that a change of it is seen
    assert words in found.evidence


@pytest.mark.parametrize(
    ("beside", "vocoder"),
    [
        ({}, "vocos"),
        ({"ana.yaml": "vocoder: bigvgan"}, "bigvgan"),
        ({"ana.yaml": "vocoder: bigvgan", "setting.json": '{"exp_name": "F5TTS_Base"}'}, "bigvgan"),
        ({"ana.yaml": "variant: v0\nvocoder: bigvgan"}, "bigvgan"),
        ({"ana.yaml": yaml.safe_dump({"model": {"mel_spec": {"mel_spec_type": "bigvgan"}}})}, "bigvgan"),
    ],
)
def test_the_vocoder_leaves_no_trace_either(tmp_path: Path, beside: Mapping[str, str], vocoder: str) -> None:
    """Unless a configuration says so it is vocos, which all published models but one are for."""
    assert told(tmp_path, beside=beside).vocoder == vocoder


# --- in the file -----------------------------------------------------------------------------------------------------


def test_mel_filters_in_the_file_mean_v0(tmp_path: Path) -> None:
    """The library has stopped saving them long before v1; a word beside the file counts more."""
    path = headers.save(tmp_path / "ana.safetensors", {**flow(prefix="ema_model."), **EMA, **MELS})
    assert variant(inspect(path)).flags == V0
    assert "mel_spec.mel_stft" in variant(inspect(path)).evidence
    (tmp_path / "ana.yaml").write_text("variant: v1")
    assert variant(inspect(path)).flags == V1


@pytest.mark.parametrize(("count", "flags"), [("step", V0), ("update", None)])
def test_a_trainer_that_counted_steps_is_of_before_v1(tmp_path: Path, count: str, flags: Flags | None) -> None:
    """Version 0.3.4 saved `step`, 0.6.2 and all since save `update`; 1.0 brought the flags."""
    state = {"model_state_dict": F5, "ema_model_state_dict": {**flow(prefix="ema_model."), **EMA},
             "optimizer_state_dict": {"state": {"0": {"step": 1}}}, "scheduler_state_dict": {"last_epoch": 3},
             count: 40}  # fmt: skip
    assert variant(inspect(headers.save_torch(tmp_path / "ana.pt", state))).flags == flags
    del state["optimizer_state_dict"]
    assert variant(inspect(headers.save_torch(tmp_path / "pruned.pt", state))).flags is None


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        ({"variant": "v0"}, V0),
        ({"config": '{"text_mask_padding": false, "pe_attn_head": 1}'}, V0),
        ({"config": '{"model": {"backbone": "DiT", "arch": {"dim": 64}}}'}, V1),
        ({"text_mask_padding": "False", "pe_attn_head": "1"}, V0),
        ({"config": "{", "other": "{a: *b}"}, None),
        ({"variant": "fp16"}, None),
    ],
)
def test_a_configuration_inside_the_file_tells(tmp_path: Path, said: Mapping[str, str], flags: Flags | None) -> None:
    """In the metadata of safetensors; what is no configuration does not matter."""
    found = variant(inspect(headers.save(tmp_path / "ana.safetensors", F5, **said)))
    assert found.flags == flags


def test_a_configuration_inside_a_torch_file_tells(tmp_path: Path) -> None:
    """As the objects that it is made of."""
    import torch

    state = {name: torch.zeros(shape) for name, shape in F5.items()}
    arguments = {"dim": 64, "depth": 2, "text_mask_padding": False, "pe_attn_head": 1}
    torch.save(
        {"model_state_dict": state, "config": {"model": {"backbone": "DiT", "arch": arguments}}}, tmp_path / "a.pt"
    )
    assert variant(inspect(tmp_path / "a.pt")).flags == V0


@pytest.mark.parametrize(
    ("sizes", "flags"), [("E2-TTS Base", V0), ("E2-TTS Small", V0), (headers.UNETT, None), ("F5-TTS Base", None)]
)
def test_every_published_e2_is_v0(tmp_path: Path, sizes: Any, flags: Flags | None) -> None:
    """All configurations of the library for its sizes say so; for sizes of somebody's own nothing follows."""
    assert told(tmp_path, sizes).flags == flags


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("F5TTS_v1_Base/model_1250000", "model_1250000 suggests v1"),
        ("F5TTS_v1_Base/model_last", "F5TTS_v1_Base suggests v1"),
        ("pt-br/model_V0", "model_V0 suggests v0"),
        ("pt-br/model_1200000", "model_1200000 suggests v0"),
        ("pt-br/model_last", ""),
        ("v10/convert1", ""),
    ],
)
def test_names_are_hints_and_decide_nothing(tmp_path: Path, name: str, hint: str) -> None:
    """A fine-tune keeps whatever name it was given."""
    found = variant(inspect(headers.save(tmp_path / f"{name}.safetensors", F5)))
    assert found.flags is None
    assert hint in found.hint
    assert bool(found.hint) == bool(hint)


def test_what_a_fine_tune_started_from_is_a_hint_too(tmp_path: Path) -> None:
    """The library's scripts copy it beside the checkpoints."""
    headers.save(tmp_path / "pretrained_model_1250000.safetensors", F5)
    assert "pretrained_model_1250000 suggests v1" in told(tmp_path).hint
