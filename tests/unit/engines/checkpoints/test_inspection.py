"""What a model file is: told by names and shapes, whole or not, with its training; and the best of a folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engines import registry
from engines.checkpoints.inspection import Checkpoint, candidates, digest, inspect, survey
from tests import headers, tiny
from tests.headers import flow
from tests.model_files import Runs

Shapes = Mapping[str, tuple[int, ...]]
LORA = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}


def lora(prefix: str = "base_model.model.gpt.gpt.", width: int = 64, rank: int = 4, name: str = "") -> dict[str, Any]:
    """An adapter as PEFT saves it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for target, (into, out) in LORA.items():
        shapes[f"{prefix}h.0.{target}.lora_A.{name}weight"] = (rank, into * width)
        shapes[f"{prefix}h.0.{target}.lora_B.{name}weight"] = (out * width, rank)
    return shapes


def adapter(folder: Path, shapes: Shapes) -> Checkpoint:
    headers.save(folder / "adapter_model.safetensors", shapes)
    (folder / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    return inspect(folder / "adapter_model.safetensors")


# --- XTTS ------------------------------------------------------------------------------------------------------------


def test_a_model_of_the_library_is_recognised(tiny_xtts: Path) -> None:
    """With all that its header and its folder say, and each tensor by the library's own name."""
    import torch

    one = inspect(tiny_xtts)
    state = torch.load(tiny_xtts, weights_only=True)["model"]
    assert one.loads
    assert (one.engine, one.architecture, one.container, one.precision) == ("xtts", "XTTS-v2", "torch", "float32")
    assert one.vocabulary == tiny.size().text_rows
    assert {name: entry.shape for name, entry in one.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in state.items()
    }
    assert one.parameters == sum(tensor.numel() for tensor in state.values())
    assert (one.size_bytes, one.created) == (tiny_xtts.stat().st_size, tiny_xtts.stat().st_mtime)
    beside = (one.config, one.vocab, one.speakers)
    assert beside == tuple(tiny_xtts.with_name(name) for name in ("config.json", "vocab.json", "speakers_xtts.pth"))
    assert (one.step, one.validation_loss, one.is_best) == (None, None, False)


def test_what_a_trainer_adds_is_left_out(tiny_xtts: Path, tmp_path: Path) -> None:
    """The trainer's file has the same model in it, under longer names and beside what only training needs."""
    import torch

    state = torch.load(tiny_xtts, weights_only=True)["model"]
    training = {
        **{f"xtts.{name}": tensor for name, tensor in state.items()},
        "dvae.codebook.embed": torch.ones(4, 4),
        "torch_mel_spectrogram_dvae.mel_stft.window": torch.ones(4),
    }
    path = tmp_path / "best_model.pth"
    optimizer = {"state": {0: {"exp_avg": torch.ones(4)}}}
    loss = {"train_loss": 2.5, "eval_loss": 1.5}
    torch.save({"model": training, "optimizer": optimizer, "step": 900, "epoch": 2, "model_loss": loss}, path)
    one = inspect(path)
    assert one.loads
    assert set(one.tensors) == set(state)
    assert (one.step, one.epoch, one.validation_loss, one.training_loss) == (900, 2, 1.5, 2.5)


def test_names_of_older_versions_are_those_of_today(tiny_xtts: Path, tmp_path: Path) -> None:
    """Weight norm under its former names, and what the first versions saved twice."""
    import torch

    state = torch.load(tiny_xtts, weights_only=True)["model"]
    today = "parametrizations.weight.original"
    old = {name.replace(f"{today}0", "weight_g").replace(f"{today}1", "weight_v"): one for name, one in state.items()}
    assert set(old) != set(state)
    old |= {"gpt.gpt.wte.weight": torch.ones(1), "gpt.gpt_inference.lm_head.0.weight": torch.ones(1),
            "gpt.gpt.h.0.attn.bias": torch.ones(1)}  # fmt: skip
    torch.save(old, tmp_path / "model.pth")
    one = inspect(tmp_path / "model.pth")
    assert one.loads
    assert set(one.tensors) == set(state)


@pytest.mark.parametrize("change", [
    ("gpt.mel_head.weight", (1000, 64), "gpt.mel_head.weight is [1000, 64] and should be [1026, 64]"),
    ("gpt.text_head.bias", (17,), "gpt.text_head.bias is [17] and should be [16]"),
    ("gpt.gpt.h.0.mlp.c_fc.weight", (64, 64), "gpt.gpt.h.0.mlp.c_fc.weight is [64, 64] and should be [64, 256]"),
    ("gpt.gpt.ln_f.weight", None, "lacks 1 of"),
    ("gpt.gpt.h.2.ln_1.weight", (64,), "tensors: gpt.gpt.h.1."),
    ("gpt.mel_pos_embedding.emb.weight", None, "lacks 1 of"),
    ("mel_stats", None, "lacks 1 of"),
    ("hifigan_decoder.waveform_decoder.conv_pre.weight", (512, 1024, 7), "[512, 1024, 7] and should be [512, 64, 7]"),
    ("hifigan_decoder.speaker_encoder.fc.weight", (512, 1), "[512, 1] and should be [512, 4096]"),
    ("gpt.text_embedding.weight", (16,), "not matrices"),
    ("gpt.mel_embedding.weight", (), "not matrices"),
])  # fmt: skip
def test_a_model_that_does_not_fit_together_does_not_load(tmp_path: Path, change: tuple[str, Any, str]) -> None:
    """The header tells; the tensors are named, with what they should be."""
    name, shape, words = change
    shapes = {**headers.xtts(), **({name: shape} if shape is not None else {})}
    if shape is None:
        del shapes[name]
    one = inspect(headers.save(tmp_path / "model.safetensors", shapes))
    assert (one.engine, one.architecture, one.loads) == ("xtts", "XTTS-v2", False)
    assert words in one.why_not
    assert one.cure


def test_only_the_first_few_of_many_faults_are_named(tmp_path: Path) -> None:
    """A wall of names helps nobody."""
    shapes = {name: shape for name, shape in headers.xtts().items() if not name.startswith("gpt.conditioning_encoder")}
    one = inspect(headers.save(tmp_path / "model.safetensors", shapes))
    assert one.why_not.startswith("It lacks 38 of ")
    assert one.why_not.count("gpt.conditioning_encoder") == 3
    assert one.why_not.endswith(" and 35 more.")


@pytest.mark.parametrize(
    ("kept", "more", "architecture", "words"),
    [
        ("gpt.", {}, "XTTS-v2 without its vocoder", "hifigan_decoder is missing"),
        ("", {"gpt.gpt.h.0.attn.c_attn.base_layer.weight": (1,), "gpt.gpt.h.0.attn.c_attn.lora_A.default.weight": (1,)},
         "XTTS-v2 with an adapter that is not merged", "not merged"),
    ],
)  # fmt: skip
def test_half_a_model_is_named(tmp_path: Path, kept: str, more: Shapes, architecture: str, words: str) -> None:
    """The GPT alone; a model with a loose adapter in it."""
    shapes = {**{name: shape for name, shape in headers.xtts().items() if name.startswith(kept)}, **more}
    one = inspect(headers.save(tmp_path / "model.safetensors", shapes))
    assert (one.engine, one.architecture, one.loads) == ("xtts", architecture, False)
    assert words in one.why_not


def test_a_trainers_file_with_a_gpt_that_peft_wrapped_is_named(tmp_path: Path) -> None:
    """What the trainer saves while an adapter is trained: the whole model, the adapter loose in it."""
    shapes = {f"xtts.{name}".replace("xtts.gpt.", "xtts.gpt.base_model.model."): (1,) for name in headers.xtts()}
    layer = "xtts.gpt.base_model.model.gpt.h.0.attn.c_attn"
    shapes |= {f"{layer}.{part}.weight": (1,) for part in ("base_layer", "lora_A.default", "lora_B.default")}
    one = inspect(headers.save(tmp_path / "best_model.safetensors", shapes))
    assert (one.architecture, one.loads) == ("XTTS-v2 with an adapter that is not merged", False)
    assert "save_pretrained" in one.cure


def test_version_1_is_told_from_version_2(tmp_path: Path) -> None:
    """It has no perceiver."""
    shapes = {name: shape for name, shape in headers.xtts().items() if "perceiver" not in name}
    shapes["gpt.prompt_embedding.weight"] = (8194, 64)
    one = inspect(headers.save(tmp_path / "model.safetensors", shapes))
    assert (one.engine, one.architecture, one.loads) == ("xtts", "XTTS-v1", False)
    assert one.cure


def test_scattered_tensors_do_not_load(tiny_xtts: Path, tmp_path: Path) -> None:
    """Their bytes are in another order than the loader maps."""
    import torch

    state = torch.load(tiny_xtts, weights_only=True)["model"]
    weight = state["gpt.text_head.weight"]
    state["gpt.text_head.weight"] = weight.T.contiguous().T
    torch.save(state, tmp_path / "model.pth")
    one = inspect(tmp_path / "model.pth")
    assert one.why_not == "Some of its tensors are not contiguous: gpt.text_head.weight."
    assert "contiguous" in one.cure


# --- what lies beside ------------------------------------------------------------------------------------------------


def vocabulary(tokens: int) -> str:
    return json.dumps(
        {"model": {"vocab": {str(n): n for n in range(tokens - 1)}}, "added_tokens": [{"id": tokens - 1}]}
    )


@pytest.mark.parametrize(
    ("vocab", "why_not"),
    [
        (vocabulary(16), ""),
        (vocabulary(15), "vocab.json next to it has 15 tokens, but the model was trained with 16."),
        ("[]", "vocab.json next to it can't be read."),
        ("", "vocab.json next to it can't be read."),
        ('{"model": {"vocab": {}}}', "vocab.json next to it can't be read."),
        ('{"model": {"vocab": {"a": null}}}', "vocab.json next to it can't be read."),
        ("[" * 100_000, "vocab.json next to it can't be read."),
    ],
)
def test_a_vocabulary_has_as_many_tokens_as_the_model(tmp_path: Path, vocab: str, why_not: str) -> None:
    """Or it is another model's, and what is spoken is gibberish."""
    path = headers.save(tmp_path / "model.safetensors", headers.xtts(words=16))
    (tmp_path / "vocab.json").write_text(vocab)
    one = inspect(path)
    assert one.vocab == tmp_path / "vocab.json"
    assert one.loads if not why_not else one.why_not == why_not


def test_files_of_the_training_recipe_are_found_beside_its_run(tmp_path: Path) -> None:
    """coqui's recipe keeps what it started from in a folder beside those of its runs."""
    path = headers.save(tmp_path / "run-1/best_model.safetensors", headers.xtts())
    originals = tmp_path / "XTTS_v2.0_original_model_files"
    originals.mkdir()
    (originals / "vocab.json").write_text(vocabulary(16))
    (path.parent / "config.json").write_text("{}")
    one = inspect(path)
    assert (one.config, one.vocab) == (path.parent / "config.json", originals / "vocab.json")


# --- F5 and E2 (see also test_f5_layout, test_f5_vocabulary, test_f5_variant) -----------------------------------------


def test_the_averaged_weights_of_a_training_file_count(tmp_path: Path) -> None:
    """F5's trainer saves the model as it is, and its average, which is what it speaks with."""
    import torch

    shapes = flow(symbols=3)
    raw = {name: torch.zeros(shape) for name, shape in shapes.items()}
    average = {f"ema_model.{name}": torch.ones(shape) for name, shape in shapes.items()} | {"step": torch.tensor(3)}
    state = {"model_state_dict": raw, "ema_model_state_dict": average, "update": 40, "optimizer_state_dict": {"a": 1}}
    path = tmp_path / "model_last.pt"
    torch.save(state, path)
    one = inspect(path)
    entry = one.tensors["transformer.input_embed.proj.weight"]
    assert path.read_bytes()[entry.offset : entry.offset + entry.size] == raw_ones(entry.count)
    assert (one.engine, one.step) == ("f5", 40)


def raw_ones(count: int) -> bytes:
    return b"\0\0\x80\x3f" * count


@pytest.mark.parametrize("shapes", [headers.xtts(), headers.F5, lora()])
def test_a_model_loads_with_an_engine_of_this_version(tmp_path: Path, shapes: Shapes) -> None:
    one = adapter(tmp_path, shapes)
    assert one.engine in registry.engines()
    assert one.loads


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["base_model.model.gpt.gpt.", "base_model.model.xtts.gpt.gpt.", "base_model.model."])
@pytest.mark.parametrize("name", ["", "default."])
def test_an_adapter_is_recognised(tmp_path: Path, prefix: str, name: str) -> None:
    """Whatever of the model was wrapped when it was trained."""
    one = adapter(tmp_path, lora(prefix, name=name))
    assert one.loads
    assert (one.engine, one.architecture) == ("xtts", "LoRA adapter for XTTS-v2")
    assert set(one.tensors) == {f"gpt.gpt.h.0.{target}.lora_{side}.weight" for target in LORA for side in "AB"}
    assert one.config == tmp_path / "adapter_config.json"


def test_an_adapter_needs_its_configuration(tmp_path: Path) -> None:
    """It alone says how strong the adapter is."""
    one = inspect(headers.save(tmp_path / "adapter_model.safetensors", lora()))
    assert one.why_not == "There is no adapter_config.json next to it."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_model.model.gpt.gpt.h.0.attn.c_attn.lora_B.weight": None}, "h.0.attn.c_attn"),
        ({"base_model.model.gpt.gpt.h.0.attn.c_attn.lora_B.weight": (192, 5)}, "h.0.attn.c_attn"),
        ({"base_model.model.gpt.gpt.h.0.mlp.c_fc.lora_A.weight": (4, 32)}, "h.0.mlp.c_fc"),
        ({"base_model.model.gpt.gpt.h.0.mlp.c_fc.lora_B.weight": (64, 4)}, "h.0.mlp.c_fc"),
        ({"base_model.model.gpt.gpt.h.0.attn.c_attn.lora_magnitude_vector": (192,)}, "lora_magnitude_vector"),
        ({"base_model.model.gpt.text_head.weight": (16, 64)}, "text_head"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """Halves of pairs, ranks and widths that differ, DoRA, whole layers."""
    shapes = {name: shape for name, shape in (lora() | change).items() if shape is not None}
    one = adapter(tmp_path, shapes)
    assert (one.engine, one.loads) == ("xtts", False)
    assert words in one.why_not


def test_an_adapter_for_another_model_is_named(tmp_path: Path) -> None:
    """Such as one for a language model."""
    one = adapter(tmp_path, {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 4)})
    assert (one.engine, one.architecture) == (None, "adapter for another model")
    assert "q_proj" in one.why_not


# --- what is no model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"codebook.embed": (4, 4), "encoder.0.0.weight": (4,)}, "DVAE"),
        (
            {"Ana Florence.gpt_cond_latent": (1, 32, 4), "Ana Florence.speaker_embedding": (1, 4, 1)},
            "speakers_xtts.pth",
        ),
        ({"hifigan_decoder.waveform_decoder.conv_pre.weight": (4, 4, 7)}, "HiFi-GAN"),
        ({"backbone.embed.weight": (4, 4, 7)}, "Vocos"),
        ({"enc_p.emb.weight": (4, 4)}, "VITS"),
        ({"optimizer.state.0.exp_avg": (4,)}, "optimizer"),
        ({"tensor": (80,)}, "a single tensor"),
        (
            {"bert.embeddings.weight": (4,), "a": (1,), "b": (1,), "c": (1,)},
            "'bert.embeddings.weight', 'a', 'b' and 1 more",
        ),
        ({}, "without tensors"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, state: Shapes, words: str) -> None:
    """The files that lie beside models, and models of others."""
    one = inspect(headers.save(tmp_path / "model.safetensors", state))
    assert (one.engine, one.loads) == (None, False)
    assert words in one.why_not
    assert one.cure


def test_the_librarys_own_side_files_are_named(tiny_xtts: Path, tmp_path: Path) -> None:
    """Voices as the library saves them, and statistics, which are one tensor."""
    import torch

    assert "speakers_xtts.pth" in inspect(tiny_xtts.with_name("speakers_xtts.pth")).architecture
    torch.save(torch.ones(80), tmp_path / "mel_stats.pth")
    assert inspect(tmp_path / "mel_stats.pth").architecture == "a single tensor"


def test_a_hostile_file_is_a_checkpoint_that_does_not_load(tmp_path: Path) -> None:
    """It says what it would run, and does not."""
    import torch

    path, witness = tmp_path / "model.pth", tmp_path / "ran"
    torch.save({"model": Runs(witness)}, path)
    one = inspect(path)
    assert (one.engine, one.architecture, one.loads) == (None, "unreadable", False)
    assert "would run os.system" in one.why_not
    assert not witness.exists()


def test_names_from_a_file_can_not_steer_a_terminal(tmp_path: Path) -> None:
    """They are quoted."""
    one = inspect(headers.save(tmp_path / "model.safetensors", {"\x1b[2J\n\u202e": (1,), "b": (1,)}))
    assert one.why_not.isprintable()
    assert r"\x1b[2J\n\u202e" in one.why_not


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "step", "validation", "training"),
    [
        ({"step": 5, "model_loss": 0.5}, 5, 0.5, None),
        ({"global_step": 6, "model_loss": {"train_loss": 2, "eval_loss": 1}}, 6, 1.0, 2.0),
        ({"update": 7, "model_loss": {"train_loss": 2.0, "eval_loss": None}}, 7, None, 2.0),
        ({"step": 8, "val_loss": 0.25, "train_loss": 0.5}, 8, 0.25, 0.5),
        ({"loss": 3.5}, None, 3.5, None),
        ({"step": -1, "val_loss": math.nan, "train_loss": math.inf}, None, None, None),
        ({"step": "many", "val_loss": True, "train_loss": [1]}, None, None, None),
        ({"step": 10**400, "val_loss": -(10**400)}, None, None, None),
    ],
)
def test_trainings_are_told_under_all_their_names(
    tmp_path: Path, values: dict[str, Any], step: int | None, validation: float | None, training: float | None
) -> None:
    """What is no finite number is not told."""
    import torch

    torch.save({"model": {"weight": torch.ones(1)}, **values}, tmp_path / "x.pth")
    one = inspect(tmp_path / "x.pth")
    assert (one.step, one.validation_loss, one.training_loss) == (step, validation, training)


def test_metadata_of_safetensors_are_text(tmp_path: Path) -> None:
    """And are read as numbers."""
    one = inspect(headers.save(tmp_path / "x.safetensors", step="900", epoch="2", val_loss="0.5", train_loss="x"))
    assert (one.step, one.epoch, one.validation_loss, one.training_loss) == (900, 2, 0.5, None)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("best_model_1234", 1234),
        ("checkpoint_10000", 10000),
        ("model-500", 500),
        ("model_last", None),
        ("xtts_2024", None),
    ],
)
def test_a_step_may_stand_in_the_name(tmp_path: Path, name: str, step: int | None) -> None:
    """What the file itself says comes first."""
    assert inspect(headers.save(tmp_path / f"{name}.safetensors")).step == step
    assert inspect(headers.save(tmp_path / f"{name}.safetensors", step="3")).step == 3


def test_the_precision_is_that_of_most_weights(tmp_path: Path) -> None:
    """A few tensors in float32 do not make a model of it."""
    import torch

    torch.save({"a": torch.ones(100).half(), "b": torch.ones(9)}, tmp_path / "x.pth")
    assert inspect(tmp_path / "x.pth").precision == "float16"


# --- folders ---------------------------------------------------------------------------------------------------------


def test_candidates_come_in_natural_order(tmp_path: Path) -> None:
    """Files that models are in by their endings, in linked folders too; not what is hidden or lies beside models."""
    names = ["a/checkpoint_900.pth", "a/checkpoint_1000.PTH", "b.pt", "c.safetensors"]
    others = ["a/speakers_xtts.pth", "a/dvae.pth", "a/mel_stats.pth", "a/optimizer_2.pt", "a/config.json", ".x.pth",
              ".hidden/model.pth"]  # fmt: skip
    for name in names + others:
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "d.pth").touch()
    (tmp_path / "models/linked").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(tmp_path / "models")
    found = [str(path.relative_to(tmp_path / "models")) for path in candidates(tmp_path / "models")]
    assert found == [*names, "linked/d.pth"]
    assert candidates(tmp_path / "nowhere") == []


def test_the_best_of_each_folder_has_the_lowest_validation_loss(tmp_path: Path) -> None:
    """One that no engine speaks with counts only where there is no other; one that can't be read, not at all."""
    for name, shapes, said in (
        ("a/1", headers.F5, {"val_loss": "0.5"}), ("a/2", headers.F5, {"val_loss": "0.25"}), ("a/3", headers.F5, {}),
        ("a/4", {}, {"val_loss": "0.1"}), ("a/5", headers.F5, {"val_loss": "nan"}),
        ("a/6", headers.F5, {"val_loss": "0.25"}), ("b/1", {}, {"val_loss": "9"}), ("c/1", headers.F5, {}),
    ):  # fmt: skip
        headers.save(tmp_path / f"{name}.safetensors", shapes, **said)
    (tmp_path / "a/7.pth").write_bytes(b"nothing")
    (tmp_path / "a/8.pth").symlink_to(tmp_path / "nowhere")
    found = survey(tmp_path)
    assert [str(one.path.relative_to(tmp_path)) for one in found if one.is_best] == [
        "a/2.safetensors",
        "b/1.safetensors",
    ]
    assert len(found) == 10
    assert found[7].why_not == "The file can't be opened: No such file or directory."


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """It is for the caller to say what that means."""
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "model.pth")


# --- digests ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("VOICESPOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def aged(path: Path, content: bytes, seconds: float = 100.0) -> str:
    """Write a file that seems to lie there for a while, and say its digest."""
    path.write_bytes(content)
    then = round(time.time() - seconds)
    os.utime(path, (then, then))
    return hashlib.sha256(content).hexdigest()


def test_a_digest_is_remembered_by_what_the_file_system_says(cache: Path, tmp_path: Path) -> None:
    """The same inode, size and mtime mean the same content; anything else is read again."""
    path = tmp_path / "model.pth"
    first = aged(path, b"one")
    assert digest(path) == first
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest(path) == first  # as nothing tells the two apart, it was not read
    second = aged(path, b"two", 50.0)
    assert digest(path) == second
    assert len(list((cache / "digests").iterdir())) == 1


def test_a_file_that_just_changed_is_not_remembered(cache: Path, tmp_path: Path) -> None:
    """Its next change could happen within the same tick of the file system's clock."""
    path = tmp_path / "model.pth"
    path.write_bytes(b"one")
    os.utime(path, times=(time.time() + 60,) * 2)  # however slowly it is read
    assert digest(path) == hashlib.sha256(b"one").hexdigest()
    assert not list((cache / "digests").iterdir())


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"sha256": "x", "state": {}}', b"\xff"])
def test_a_damaged_note_counts_as_none(cache: Path, tmp_path: Path, damage: bytes) -> None:
    """The file is read again."""
    path = tmp_path / "model.pth"
    expected = aged(path, b"one")
    digest(path)
    (note,) = (cache / "digests").iterdir()
    note.write_bytes(damage)
    assert digest(path) == expected


def test_digests_need_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can be made, everything works, slowly."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("VOICESPOOL_CACHE", str(tmp_path / "file" / "cache"))
    assert digest(tmp_path / "file") == hashlib.sha256(b"").hexdigest()
