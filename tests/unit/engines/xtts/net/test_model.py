"""A checkpoint becomes the library's model, whatever it is packed in; so do a base model and an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engines.checkpoints import inspection
from engines.errors import RequestRefused
from tests import sounds, tiny

if TYPE_CHECKING:
    from torch import Tensor

    from tests.tiny import Library

State = Mapping[str, "Tensor"]
NOISE = 1e-5
TARGETS = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}
WIDTH, RANK, ALPHA = 64, 4, 16.0


@pytest.fixture(scope="session")
def state(tiny_xtts: Path) -> State:
    """The weights of the tiny model by the library's names."""
    import torch

    weights: State = torch.load(tiny_xtts, weights_only=True)["model"]
    return weights


def utterances(model: Any) -> list[Any]:
    """Some to decode greedily, with a voice of no model's."""
    import torch

    from engines.torch.sampling import SamplingParams
    from engines.xtts.net.gpt import Utterance

    voice = torch.randn(1, 32, WIDTH, generator=torch.Generator().manual_seed(4))
    ways = SamplingParams(do_sample=False, repetition_penalty=2.0)
    return [Utterance((n, 0), model.tokenize(text, "en"), voice, ways, seed=0) for n, text in enumerate(tiny.TEXTS[:4])]


def spoken(model: Any) -> list[Any]:
    """What a model makes of them, in order."""
    made = [one for group in model.gpt.generate(tiny.given(utterances(model)), 4) for one in group]
    return sorted(made, key=lambda one: one.key)


def sound(model: Any) -> Tensor:
    """The vocoder's [samples] for any latents."""
    import torch

    generator = torch.Generator().manual_seed(5)
    latents, voice = torch.randn(4, WIDTH, generator=generator), torch.randn(1, 512, 1, generator=generator)
    made: Tensor = model.vocoder([latents], [voice / 20], [1.0])[0]
    return made


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and float((one - other).abs().max()) <= NOISE


def agree(one: Any, other: Any) -> bool:
    """Whether two models are the same: what they keep of the library's modules, how they decode, how they sound."""
    import torch

    ours, others = one.library.state_dict(), other.library.state_dict()
    return (
        ours.keys() == others.keys()
        and all(torch.equal(tensor, others[name]) for name, tensor in ours.items())
        and all(
            first.codes.tolist() == second.codes.tolist() and close(first.latents, second.latents)
            for first, second in zip(spoken(one), spoken(other), strict=True)
        )
        and close(sound(one), sound(other))
    )


# --- containers and layouts -------------------------------------------------------------------------------------------


def bare(state: State, path: Path) -> Path:
    import torch

    torch.save(dict(state), path)
    return path


def by_a_trainer(state: State, path: Path) -> Path:
    """As coqui's trainer saves it: the optimizer, the DVAE and the spectrograms beside the model."""
    import torch

    model = {f"xtts.{name}": tensor for name, tensor in state.items()}
    model |= {f"torch_mel_spectrogram_{kind}.mel_stft.window": torch.ones(4) for kind in ("dvae", "style_encoder")}
    model |= {"dvae.codebook.embed": torch.ones(4, 4), "dvae.encoder.0.0.weight": torch.full((2, 2), torch.nan)}
    optimizer = {"state": {0: {"exp_avg": torch.full((4,), torch.nan)}}, "param_groups": [{"lr": 1e-5}]}
    loss = {"train_loss": 2.5, "eval_loss": 1.5}
    torch.save({"model": model, "optimizer": optimizer, "scaler": None, "step": 900, "model_loss": loss}, path)
    return path


def with_objects(state: State, path: Path) -> Path:
    """As the first ones were published: their configuration is an object, not a dictionary."""
    import torch

    torch.save({"config": tiny.configuration(), "model": dict(state)}, path)
    return path


def as_safetensors(state: State, path: Path) -> Path:
    from safetensors.torch import save_file

    path = path.with_suffix(".safetensors")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"step": "7"})
    return path


def under_old_names(state: State, path: Path) -> Path:
    """Weight norm as torch called it before version 2."""
    new = "parametrizations.weight.original"
    return bare(
        {name.replace(f"{new}0", "weight_g").replace(f"{new}1", "weight_v"): one for name, one in state.items()}, path
    )


def with_traces_of_use(state: State, path: Path) -> Path:
    """Saved after `eval()`, which has the library keep parts of the GPT twice."""
    twice = {f"gpt.gpt_inference.lm_head.1.{part}": state[f"gpt.mel_head.{part}"] for part in ("weight", "bias")}
    return bare({**state, **twice, "gpt.gpt.wte.weight": state["gpt.mel_embedding.weight"]}, path)


@pytest.mark.parametrize(
    "save", [bare, by_a_trainer, with_objects, as_safetensors, under_old_names, with_traces_of_use]
)
def test_any_container_gives_the_same_model(
    model: Any, state: State, tiny_xtts: Path, tmp_path: Path, save: Callable[[State, Path], Path]
) -> None:
    """And stays as it is, bytes and times."""
    path = save(state, tiny.beside(tiny_xtts, tmp_path / "model"))
    digest, status = inspection.digest(path), path.stat()
    assert agree(tiny.load(path), model)
    assert inspection.digest(path) == digest
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert len(list(path.parent.iterdir())) == 1 + len(tiny.COMPANIONS)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_files_give_their_values_in_float32(
    state: State, tiny_xtts: Path, tmp_path: Path, stored: str
) -> None:
    """Computed with as any other; the same as a file that has these values in float32."""
    import torch

    kind = getattr(torch, stored)
    half = {name: one.to(kind) if one.is_floating_point() else one for name, one in state.items()}
    small, large = (tiny.beside(tiny_xtts, tmp_path / name) for name in ("small", "large"))
    bare(half, small)
    bare({name: one.float() if one.is_floating_point() else one for name, one in half.items()}, large)
    assert small.stat().st_size < large.stat().st_size * 0.6
    assert agree(tiny.load(small), tiny.load(large))


def test_what_is_kept_of_the_library_is_the_files(model: Any, state: State) -> None:
    """Every weight of its modules: nothing is random, nothing is left from building it."""
    import torch

    kept = model.library.state_dict()
    again = {name for name in kept if name.startswith(("gpt.gpt.wte.", "gpt.gpt_inference."))}  # made by `eval()`
    assert len(kept) - len(again) > 100
    assert all(torch.equal(tensor, state[name]) for name, tensor in kept.items() if name not in again)
    known = {tensor.data_ptr() for name, tensor in kept.items() if name not in again}
    assert {kept[name].data_ptr() for name in again} <= known
    assert not any(parameter.requires_grad for parameter in model.library.parameters())


def test_the_first_format_is_refused_in_words(state: State, tiny_xtts: Path, tmp_path: Path) -> None:
    """What torch wrote before version 1.6 is a pickle with bytes behind it; with the cure."""
    import torch

    path = tiny.beside(tiny_xtts, tmp_path / "old")
    torch.save({"model": dict(state)}, path, _use_new_zipfile_serialization=False)
    found = inspection.inspect(path)
    assert not found.loads
    assert "before version 1.6" in found.why_not
    assert "torch.save" in found.cure


# --- what lies beside it ----------------------------------------------------------------------------------------------


def refused(path: Path, **other: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        tiny.load(path, **other)
    assert caught.value.hint != RequestRefused.hint
    return caught.value


def rewritten(checkpoint: Path, folder: Path, name: str, content: bytes) -> Path:
    """The model with another file beside it."""
    path = tiny.beside(checkpoint, folder)
    path.hardlink_to(checkpoint)
    path.with_name(name).write_bytes(content)
    return path


CONFIG_GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"7",
    b"\xff\xfe\x00",
    b'{"model_args": ',
    b"[" * 100_000,
    b'{"temperature": ' + b"9" * 9000,
]


@pytest.mark.parametrize("content", CONFIG_GARBAGE, ids=range(len(CONFIG_GARBAGE)))
def test_a_config_that_is_none_is_refused(tiny_xtts: Path, tmp_path: Path, content: bytes) -> None:
    """Named, with the cure."""
    error = refused(rewritten(tiny_xtts, tmp_path / "model", "config.json", content))
    assert "config.json can't be read" in error.message
    assert "training run" in error.hint


def test_sizes_come_from_the_weights(model: Any, tiny_xtts: Path, tmp_path: Path) -> None:
    """A config.json that is about another model, or of other kinds of values, changes none of them."""
    other = {
        "model_args": {"gpt_layers": 30, "gpt_n_model_channels": 1024, "gpt_number_text_tokens": 6681, "gpt_n_heads": 2,
                       "gpt_num_audio_tokens": 8194, "gpt_start_audio_token": 8192, "gpt_max_audio_tokens": 605,
                       "gpt_max_prompt_tokens": 10**12, "gpt_use_perceiver_resampler": False,
                       "decoder_input_dim": "wide", "unknown": [{}]},
        "audio": {"sample_rate": None, "unknown": 1}, "unknown": {}, "temperature": "hot", "top_k": None,
        "languages": ["en"], "model": "vits",
    }  # fmt: skip
    path = rewritten(tiny_xtts, tmp_path / "model", "config.json", json.dumps(other).encode())
    assert agree(tiny.load(path), model)


@pytest.mark.parametrize(
    ("name", "value"),
    [("gpt_n_heads", value) for value in (0, -1, 3, 2.5, 128, 10**12, 1e308)]
    + [("output_sample_rate", 48_000), ("input_sample_rate", 0), ("output_hop_length", 10**9),
       ("gpt_code_stride_len", -1), ("d_vector_dim", 256)],
)  # fmt: skip
def test_a_config_of_another_kind_of_model_is_refused(tiny_xtts: Path, tmp_path: Path, name: str, value: float) -> None:
    """What no tensor tells, and would crash it, fill the memory, or speak at another pitch."""
    content = json.dumps({"model_args": {"gpt_n_heads": 2, name: value}}).encode()
    error = refused(rewritten(tiny_xtts, tmp_path / "model", "config.json", content))
    assert f"config.json says {name}: {value!r}" in error.message
    assert "trained with" in error.hint


def test_defaults_are_what_the_config_says(tiny_xtts: Path, tmp_path: Path) -> None:
    """Of inference: by the library's names; the library's own where it says nothing."""
    said = json.loads(tiny_xtts.with_name("config.json").read_bytes())
    own = {"temperature": 0.5, "top_k": 7, "gpt_cond_len": 9, "sound_norm_refs": True}
    path = rewritten(tiny_xtts, tmp_path / "model", "config.json", json.dumps({**said, **own}).encode())
    defaults = tiny.load(path).defaults
    assert {name: defaults[name] for name in own} == own
    assert defaults["repetition_penalty"] == said["repetition_penalty"]
    without = replace(tiny.files(path), config=None)
    assert without.config is None


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{}", "no vocabulary"), (b"not json", "no vocabulary"), (b"", "no vocabulary")],
)
def test_a_vocabulary_that_is_none_is_refused(tiny_xtts: Path, tmp_path: Path, content: bytes, words: str) -> None:
    """By `inspect` where it tells; by the loader in any case."""
    path = rewritten(tiny_xtts, tmp_path / "model", "vocab.json", content)
    files = replace(tiny.files(tiny_xtts), vocab=path.with_name("vocab.json"))
    assert not inspection.inspect(path).loads
    with pytest.raises(RequestRefused, match=words):
        tiny.load_files(files)


def test_a_vocabulary_of_another_size_is_refused(tiny_xtts: Path, tmp_path: Path) -> None:
    """With both numbers; one without the tokens that begin and end a text, too."""
    said = json.loads(tiny_xtts.with_name("vocab.json").read_bytes())
    tokens = said["model"]["vocab"]
    for name, change, words in (
        ("more", {"one more": len(tokens)}, f"{len(tokens) + 1} tokens"),
        ("other", {"[START]": None}, "START"),
    ):
        changed = {**tokens, **change}
        if changed.get("[START]", 0) is None:
            changed["[BEGIN]"] = tokens["[START]"]
            del changed["[START]"]
        file = tmp_path / f"{name}.json"
        added = [token for token in said["added_tokens"] if token["content"] in changed]
        file.write_text(json.dumps({**said, "added_tokens": added, "model": {**said["model"], "vocab": changed}}))
        with pytest.raises(RequestRefused, match=words):
            tiny.load_files(replace(tiny.files(tiny_xtts), vocab=file))


# --- reading texts and recordings -------------------------------------------------------------------------------------

TEXTS = {
    "ar": "كان هناك 50 جنديًا.", "cs": "Dr. Novák má 50 korun.", "de": "Es gab 50 Soldaten.",
    "en": "Mr. Smith has $20.",
    "es": "Había 50 soldados.", "fr": "Il y avait 50 soldats.", "hi": "सैनिक थे।", "hu": "50 katona volt.",
    "it": "C'erano 50 soldati.",
    "ja": "これは50円です。", "ko": "50 명의 병사가 있었다.", "nl": "Er waren 50 soldaten.",
    "pl": "Było 50 żołnierzy.", "pt": "Custa R$ 50, Sra. Ana.", "ru": "Там было 50 солдат.", "tr": "50 asker vardı.",
    "zh": "有50名士兵",
}  # fmt: skip


def test_texts_are_read_as_the_library_reads_them(model: Any, library: Library) -> None:
    """In all of its languages, numbers and abbreviations written out."""
    from engines.xtts.engine import MAX_CHARS_IN

    assert TEXTS.keys() == MAX_CHARS_IN.keys()
    for language, text in TEXTS.items():
        expected = library.model.tokenizer.encode(f" {text} ".strip().lower(), lang=language)
        assert model.tokenize(f" {text} ", language).tolist() == expected
        assert len(expected) > 3


MUCH = {
    "hi": "50 सैनिक थे।", "cs": "Dnes je 3. května.", "pt": f"O número {'9' * 30}.", "es": f"{'9' * 30} euros",
    "tr": "9" * 60, "ru": f"${'9' * 40}", "pl": "9" * 90, "it": "9" * 90, "ko": "9" * 90, "ar": "9" * 90,
}  # fmt: skip


def test_no_number_is_too_much(model: Any) -> None:
    """Whatever stands in a text, it is read: a number that can't be written out is no reason to fail."""
    for language, text in MUCH.items():
        assert len(model.tokenize(text, language)) > 3


@pytest.mark.parametrize(
    "settings",
    [
        {"gpt_cond_len": 12, "gpt_cond_chunk_len": 4, "max_ref_len": 10, "sound_norm_refs": False},
        {"gpt_cond_len": 3, "gpt_cond_chunk_len": 2, "max_ref_len": 2, "sound_norm_refs": True},
        {"gpt_cond_len": 6, "gpt_cond_chunk_len": 6, "max_ref_len": 30, "sound_norm_refs": False},
    ],
)
def test_recordings_are_heard_as_the_library_hears_them(
    model: Any, library: Library, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """One or several, of any rate, in stereo: the same latents, the same speaker embedding."""
    import torch

    from engines.voices import recordings

    mono = sounds.save(tmp_path / "a.wav", sounds.speech(5.0, 22_050), 22_050)
    stereo = sounds.speech(3.0, 44_100, level=0.3)
    both = sounds.save(tmp_path / "b.flac", np.stack([stereo, 0.5 * stereo], axis=1), 44_100)
    for paths in ([mono], [both], [both, mono]):
        heard = [(torch.from_numpy(samples), rate) for samples, rate in (recordings.read(path, 60.0) for path in paths)]
        conditioning, embedding = model.get_conditioning_latents(heard, settings)
        renamed = {**settings, "max_ref_length": settings["max_ref_len"]}
        del renamed["max_ref_len"]
        expected = library.hear(paths, **renamed)
        assert close(conditioning, expected[0])
        assert close(embedding, expected[1])
        assert conditioning.shape == (1, 32, WIDTH)


def test_what_a_voice_follows_from_is_told_by_its_ears(model: Any, tiny_xtts: Path, tmp_path: Path) -> None:
    """Another model that listens with the same weights shares its voices; one that listens differently does not."""

    def speaks(state: dict[str, Tensor]) -> None:
        state["gpt.gpt.h.0.attn.c_attn.weight"] += 1

    def listens(state: dict[str, Tensor]) -> None:
        state["gpt.conditioning_perceiver.latents"] += 1

    assert tiny.load(tiny.changed(tiny_xtts, tmp_path / "speaks", speaks)).encoder_digest() == model.encoder_digest()
    assert tiny.load(tiny.changed(tiny_xtts, tmp_path / "listens", listens)).encoder_digest() != model.encoder_digest()


def test_a_search_with_beams_is_the_librarys(model: Any, library: Library) -> None:
    """The same latents; drawn with beams, they follow from the seed alone, and nobody else's chance is touched."""
    import torch

    settings = {"temperature": 0.75, "top_k": 50, "top_p": 0.85, "repetition_penalty": 5.0, "length_penalty": 1.0,
                "num_beams": 3, "do_sample": False}  # fmt: skip
    voice = library.voices["Ana Florence"]
    said = library.model.inference(
        tiny.TEXTS[0], "en", voice["gpt_cond_latent"], voice["speaker_embedding"], **settings
    )
    tokens = model.tokenize(tiny.TEXTS[0], "en")
    searched = model.beam_search(tokens, voice["gpt_cond_latent"], settings, 0)
    assert close(searched, torch.from_numpy(said["gpt_latents"][0]))
    before = torch.random.get_rng_state()
    drawn = [
        model.beam_search(tokens, voice["gpt_cond_latent"], {**settings, "do_sample": True}, seed) for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape != drawn[2].shape or not torch.equal(drawn[0], drawn[2])


# --- adapters ---------------------------------------------------------------------------------------------------------

Pairs = dict[tuple[int, str], tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]


def pairs() -> Pairs:
    """A and B for every layer and target, large enough to be heard."""
    random = np.random.default_rng(6)
    return {
        (layer, target): (random.normal(0, 0.1, (RANK, into * WIDTH)), random.normal(0, 0.1, (out * WIDTH, RANK)))
        for layer in range(2)
        for target, (into, out) in TARGETS.items()
    }


def adapter(folder: Path, adapted: Pairs, **config: Any) -> Path:
    """As PEFT saves it."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    entries: dict[str, Tensor] = {}
    for (layer, target), (down, up) in adapted.items():
        prefix = f"base_model.model.gpt.gpt.h.{layer}.{target}"
        entries |= {f"{prefix}.lora_A.weight": torch.tensor(down, dtype=torch.float32),
                    f"{prefix}.lora_B.weight": torch.tensor(up, dtype=torch.float32)}  # fmt: skip
    path = folder / "adapter_model.safetensors"
    save_file(entries, path)
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "fan_in_fan_out": True, **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return path


def adapted(checkpoint: Path, path: Path) -> Any:
    """The base model with an adapter, as the engine puts them together."""
    found = inspection.inspect(path)
    assert found.loads, found.why_not
    return replace(tiny.files(checkpoint), adapter=(path, found.tensors))


@pytest.mark.parametrize(("config", "scale"), [({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / RANK**0.5)])
def test_an_adapter_is_added_to_the_weights(
    model: Any, tiny_xtts: Path, tmp_path: Path, config: dict[str, Any], scale: float
) -> None:
    """W + scale · (B A)ᵀ, computed here in float64: a checkpoint with these weights speaks just so, with beams too."""
    import torch

    def add(state: dict[str, Tensor]) -> None:
        for (layer, target), (down, up) in pairs().items():
            weight = state[f"gpt.gpt.h.{layer}.{target}.weight"]
            weight.copy_(torch.from_numpy(weight.double().numpy() + scale * (up @ down).T))

    merged = tiny.load(tiny.changed(tiny_xtts, tmp_path / "merged", add))
    made = tiny.load_files(adapted(tiny_xtts, adapter(tmp_path / "adapter", pairs(), **config)))
    assert agree(made, merged)
    assert [one.codes.tolist() for one in spoken(made)] != [one.codes.tolist() for one in spoken(model)]
    settings = {**made.defaults, "num_beams": 2, "do_sample": False}
    tokens, voice = made.tokenize("Who is there?", "en"), torch.ones(1, 32, WIDTH)
    assert close(made.beam_search(tokens, voice, settings, 0), merged.beam_search(tokens, voice, settings, 0))


def test_an_adapter_may_change_a_few_weights_only(model: Any, tiny_xtts: Path, tmp_path: Path) -> None:
    """The others stay the base model's, and B of zeros, as before the first step of training, changes nothing."""
    some = {(1, "mlp.c_fc"): pairs()[1, "mlp.c_fc"]}
    made = tiny.load_files(adapted(tiny_xtts, adapter(tmp_path / "some", some)))
    assert not agree(made, model)
    zeros = {key: (down, 0 * up) for key, (down, up) in some.items()}
    assert agree(tiny.load_files(adapted(tiny_xtts, adapter(tmp_path / "zeros", zeros))), model)


def test_the_base_models_file_is_not_changed_by_an_adapter(tiny_xtts: Path, tmp_path: Path) -> None:
    """Its weights are mapped; what is added is added to a copy."""
    digest, mtime_ns = inspection.digest(tiny_xtts), tiny_xtts.stat().st_mtime_ns
    tiny.load_files(adapted(tiny_xtts, adapter(tmp_path / "adapter", pairs())))
    assert (inspection.digest(tiny_xtts), tiny_xtts.stat().st_mtime_ns) == (digest, mtime_ns)


def test_an_adapter_for_another_model_is_refused(tiny_xtts: Path, tmp_path: Path) -> None:
    """For layers that the base model has not, and for a wider one: both named, with the cure."""
    wide = {(0, "attn.c_proj"): (np.ones((RANK, 2 * WIDTH)), np.ones((2 * WIDTH, RANK)))}
    deep = {(7, "attn.c_proj"): pairs()[0, "attn.c_proj"]}
    for name, some in (("wide", wide), ("deep", deep)):
        with pytest.raises(RequestRefused, match=r"gpt\.gpt\.h\.\d\.attn\.c_proj") as caught:
            tiny.load_files(adapted(tiny_xtts, adapter(tmp_path / name, some)))
        assert "trained on" in caught.value.hint


def test_an_adapter_of_no_numbers_is_refused(tiny_xtts: Path, tmp_path: Path) -> None:
    """NaN in one of its matrices."""
    down, up = pairs()[0, "mlp.c_fc"]
    down[1, 2] = np.nan
    with pytest.raises(RequestRefused, match="not numbers"):
        tiny.load_files(adapted(tiny_xtts, adapter(tmp_path / "nan", {(0, "mlp.c_fc"): (down, up)})))


def test_other_targets_and_missing_halves_are_refused(tmp_path: Path) -> None:
    """Before anything is loaded, by the header."""
    from safetensors.torch import load_file, save_file

    path = adapter(tmp_path / "half", pairs())
    entries = load_file(path)
    gone = next(iter(entries))
    save_file({name: tensor for name, tensor in entries.items() if name != gone}, path)
    found = inspection.inspect(path)
    assert not found.loads
    assert "do not match" in found.why_not
    save_file({**entries, "base_model.model.gpt.mel_head.lora_A.weight": entries[gone].clone()}, path)
    found = inspection.inspect(path)
    assert "mel_head" in found.why_not
    assert "merge_and_unload" in found.cure


CONFIGS = ["", "{}", "[]", '{"r": 0, "lora_alpha": 8}', '{"r": 4, "lora_alpha": NaN}', '{"r": 4, "lora_alpha": "x"}',
           '{"r": -4, "lora_alpha": 8, "use_rslora": true}', '{"r": null, "lora_alpha": 8}',
           '{"lora_alpha": 8}']  # fmt: skip


@pytest.mark.parametrize("content", CONFIGS)
def test_how_strong_an_adapter_is_must_be_known(tiny_xtts: Path, tmp_path: Path, content: str) -> None:
    """A configuration that does not say it is refused by name."""
    path = adapter(tmp_path / "adapter", pairs())
    path.with_name("adapter_config.json").write_text(content)
    with pytest.raises(RequestRefused, match=r"adapter_config\.json can't be used"):
        tiny.load_files(adapted(tiny_xtts, path))
    path.with_name("adapter_config.json").unlink()
    assert "There is no adapter_config.json next to it" in inspection.inspect(path).why_not


@pytest.mark.parametrize("config", [{"alpha_pattern": {"c_attn": 64}}, {"r": 2 * RANK}])
def test_an_adapter_whose_strength_differs_by_layer_is_not_misread(
    tiny_xtts: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    """A pattern of strengths, or a rank that is not the matrices' own: refused, as long as it is not followed."""
    with pytest.raises(RequestRefused):
        tiny.load_files(adapted(tiny_xtts, adapter(tmp_path / "adapter", pairs(), **config)))
