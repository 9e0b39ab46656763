"""The engine: which files make a model, what it tells of itself, where it runs; test_xtts_speech has how it speaks."""

from __future__ import annotations

import gc
import hashlib
import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines import installing, neural_engine
from engines.base import Audio, Chunk, ChunkList, Device
from engines.checkpoints import inspection
from engines.device import runtime
from engines.errors import EngineError, EngineMissing, OutOfMemory, RequestRefused
from engines.xtts import engine as xtts_engine
from engines.xtts.engine import Xtts
from tests import tiny, training_runs
from tests.rendered import rendered
from tests.small_card import Card, on_card

CPU = Device(name="cpu", precision="float32")
MODELS = Path()  # of each test
CACHES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TTS_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
NOISE = 1e-4


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the base model is looked for, and nowhere else: it is not there."""
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(f"{__name__}.MODELS", tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def base(tiny_xtts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base model, which is there: its folder."""
    monkeypatch.setattr(f"{__name__}.MODELS", tiny_xtts.parents[1])
    return tiny_xtts.parent


@pytest.fixture
def engine() -> Iterator[Xtts]:
    one = Xtts()
    yield one
    one.close()


@pytest.fixture
def checkpoint(tiny_xtts: Path, tmp_path: Path) -> Path:
    """The tiny model in a folder of the test's own, with all its companions."""
    return linked(tiny_xtts, tmp_path / "anna", *tiny.COMPANIONS)


def linked(checkpoint: Path, folder: Path, *companions: str) -> Path:
    """The weights under another folder, with some of what belongs to them."""
    folder.mkdir()
    for name in ("model.pth", *companions):
        (folder / name).hardlink_to(checkpoint.with_name(name))
    return folder / "model.pth"


def configured(checkpoint: Path, **said: object) -> Path:
    """Its config.json says these, too."""
    config = checkpoint.with_name("config.json")
    content = {**json.loads(config.read_bytes()), **said}
    config.unlink()
    config.write_text(json.dumps(content))
    return checkpoint


def load(engine: Xtts, checkpoint: Path | None, device: Device = CPU) -> Mapping[str, Any]:
    """The facts, which may still change."""
    return engine.load(checkpoint, replace(device, models=MODELS))


def chunk(text: str = "Who is there?", **settings: Any) -> Chunk:
    return Chunk(text, "en", seed=7, speaker="Ana Florence", settings=settings)


def speak(engine: Xtts, *chunks: Chunk) -> list[NDArray[np.float32]]:
    """The samples of chunks, each of which comes once, in their order."""
    made = rendered(engine, *(chunks or [chunk()]))
    assert all(audio.rate_hz == 24_000 for audio in made)
    return [audio.samples for audio in made]


def same(ours: Sequence[NDArray[np.float32]], others: Sequence[NDArray[np.float32]]) -> bool:
    return all(
        one.shape == other.shape and np.abs(one - other).max() <= NOISE for one, other in zip(ours, others, strict=True)
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_mapped(path: Path) -> bool:
    """Whether this process holds bytes of a file in its memory."""
    return str(path) in Path("/proc/self/maps").read_text()


# --- what it can do ---------------------------------------------------------------------------------------------------


def test_its_seventeen_languages() -> None:
    """By their own tags, those of regions, scripts and letter cases; others are none."""
    languages = Xtts.info().languages
    assert languages == (
        "ar", "cs", "de", "en", "es", "fr", "hi", "hu", "it", "ja", "ko", "nl", "pl", "pt", "ru", "tr", "zh",
    )  # fmt: skip
    assert all(Xtts.match_language(tag) == tag for tag in languages)
    expected = {
        "pt-BR": "pt", "pt-PT": "pt", "zh-Hant-TW": "zh", "zh-CN": "zh", "cmn-Hans": "zh", "en-AU": "en", "EN": "en",
        "es-419": "es", "is": None, "pap": None, "prs": None, "e": None, "": None, "yue": None,
    }  # fmt: skip
    assert {tag: Xtts.match_language(tag) for tag in expected} == expected


def test_without_its_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, engine: Xtts) -> None:
    """Before anything else is looked at."""
    monkeypatch.setattr(neural_engine, "find_spec", lambda _name: None)
    neural_engine.version_of.cache_clear()
    try:
        assert Xtts.info().missing == installing.for_extra("xtts", "coqui-tts")
        with pytest.raises(EngineMissing) as caught:
            load(engine, None)
    finally:
        neural_engine.version_of.cache_clear()
    assert caught.value.hint == installing.for_extra("xtts", "coqui-tts")


# --- what it tells ----------------------------------------------------------------------------------------------------


def test_facts_are_what_the_manifest_tells(engine: Xtts, tiny_xtts: Path, tmp_path: Path) -> None:
    """Of device and model, and what the model uses where a job says nothing; the digest is there after rendering."""
    import torch

    path = tiny.beside(tiny_xtts, tmp_path / "anna")
    whole = torch.load(tiny_xtts, weights_only=True)
    torch.save({**whole, "step": 900, "model_loss": {"train_loss": 2.5, "eval_loss": 1.5}}, path)
    facts = load(engine, configured(path, temperature=0.6, top_k=30, gpt_cond_len=12))
    assert speak(engine)[0].size
    told = json.loads(json.dumps(facts))
    settings = told.pop("settings")
    assert told == {
        "device": "cpu", "precision": "float32",
        "profile": "auto", "architecture": "XTTS-v2", "step": 900, "validation_loss": 1.5,
        "warnings": [], "sha256": sha256(path),
    }  # fmt: skip
    assert settings.keys() == {option.name for option in Xtts.info().options}
    assert {
        "temperature": 0.6,
        "top_k": 30,
        "gpt_cond_len": 12,
        "speed": 1.0,
        "num_beams": 1,
    }.items() <= settings.items()


def test_the_device_is_chosen_as_everywhere(engine: Xtts, checkpoint: Path) -> None:
    """`auto` is what `runtime` makes of it."""
    chosen = runtime.choose(Device())
    facts = load(engine, checkpoint, Device())
    assert (facts["device"], facts["precision"]) == (chosen.device, chosen.precision)


def test_what_a_device_can_not_do_is_refused(engine: Xtts, checkpoint: Path) -> None:
    """Before the weights are read."""
    with pytest.raises(RequestRefused, match="float16"):
        load(engine, checkpoint, Device(name="cpu", precision="float16"))
    with pytest.raises(EngineMissing, match="cuda:99"):
        load(engine, checkpoint, Device(name="cuda:99"))


def test_the_digest_is_known_though_all_was_spoken_before(engine: Xtts, checkpoint: Path) -> None:
    """As when a job is resumed whose chunks are all kept."""
    facts = load(engine, checkpoint)
    assert list(engine.render(ChunkList([]))) == []
    assert facts["sha256"] == sha256(checkpoint)


def test_a_digest_that_can_not_be_had_is_said(engine: Xtts, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is removed as soon as it is loaded: it speaks all the same."""
    digest = inspection.digest

    def too_late(path: Path) -> str:
        path.unlink()
        return digest(path)

    monkeypatch.setattr(inspection, "digest", too_late)
    facts = load(engine, checkpoint)
    assert speak(engine)[0].size
    (warning,) = json.loads(json.dumps(facts))["warnings"]
    assert warning.startswith("the SHA-256 of model.pth is not known: ")
    assert "sha256" not in facts


def test_config_json_can_say_what_a_job_can_say(engine: Xtts, checkpoint: Path) -> None:
    """At the very bounds, and whole numbers as JSON may write them."""
    said = {"temperature": 0.01, "top_k": 50.0, "top_p": 1, "length_penalty": -10, "max_ref_len": 60}
    settings = load(engine, configured(checkpoint, **said))["settings"]
    assert {name: settings[name] for name in said} == said
    assert [type(settings[name]) for name in ("top_k", "top_p", "max_ref_len")] == [int, float, int]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", 0, "temperature: 0; it must be a number from 0.01 to 2"),
        ("temperature", -1.5, "temperature: -1.5; it must be a number"),
        ("temperature", float("nan"), "temperature: nan; it must be a number"),
        ("repetition_penalty", float("inf"), "repetition_penalty: inf; it must be a number from 0.1 to 20"),
        ("top_p", 1.01, "top_p: 1.01; it must be a number from 0.01 to 1"),
        ("top_k", 50.5, "top_k: 50.5; it must be a whole number from 0 to 1000"),
        ("top_k", 10**3000, "top_k: 1000000000000000000000000000000000000000; it must be"),
        ("gpt_cond_len", 0, "gpt_cond_len: 0; it must be a whole number from 1 to 60"),
        ("max_ref_len", 10**9, "max_ref_len: 1000000000; it must be a whole number from 1 to 60"),
    ],
)
def test_what_no_job_could_say_is_refused(engine: Xtts, checkpoint: Path, name: str, value: float, words: str) -> None:
    """With the bounds, and where to mend it; too long a number is cut."""
    with pytest.raises(RequestRefused) as caught:
        load(engine, configured(checkpoint, **{name: value}))
    assert f"config.json of the checkpoint has {words}" in caught.value.message
    assert caught.value.hint == "Fix it in that file."


# --- what it is put together from -------------------------------------------------------------------------------------


def test_what_lies_beside_a_checkpoint_is_its_own(engine: Xtts, base: Path, checkpoint: Path) -> None:
    """The base model is there, and nothing is taken from it."""
    facts = load(engine, configured(checkpoint, temperature=0.5))
    assert facts["warnings"] == []
    assert xtts_engine._parts(checkpoint, MODELS).speakers == checkpoint.with_name("speakers_xtts.pth")
    assert facts["settings"]["temperature"] == 0.5


def test_what_is_missing_is_taken_from_the_base_model(engine: Xtts, base: Path, tmp_path: Path) -> None:
    """And said, but for the voices: those are the base model's with any of its descendants."""
    alone = linked(base / "model.pth", tmp_path / "rui")
    facts = load(engine, alone)
    taken = [
        f"there is no {name} next to model.pth; used that of the base model" for name in ("vocab.json", "config.json")
    ]
    assert facts["warnings"] == taken
    said = json.loads((base / "config.json").read_bytes())
    assert facts["settings"]["repetition_penalty"] == said["repetition_penalty"] == 5.0
    ours = speak(engine)
    load(engine, base / "model.pth")
    assert same(ours, speak(engine))


def test_without_a_base_model_a_checkpoint_needs_its_vocabulary(engine: Xtts, tiny_xtts: Path, tmp_path: Path) -> None:
    """How to come by one is said: from the training, or with the base model."""
    with pytest.raises(EngineMissing, match=r"no vocab\.json next to model\.pth") as caught:
        load(engine, linked(tiny_xtts, tmp_path / "rui", "config.json"))
    assert "voicespool models pull xtts" in caught.value.hint
    assert "training run" in caught.value.hint


def test_without_any_config_json_the_published_values_are_used(engine: Xtts, tiny_xtts: Path, tmp_path: Path) -> None:
    """And said."""
    facts = load(engine, linked(tiny_xtts, tmp_path / "rui", "vocab.json"))
    assert facts["warnings"] == ["there is no config.json next to model.pth; used the values of XTTS-v2"]
    published = {"temperature": 0.75, "length_penalty": 1.0, "repetition_penalty": 5.0, "top_k": 50, "top_p": 0.85}
    assert published.items() <= facts["settings"].items()
    with pytest.raises(RequestRefused, match="the model has no built-in voices"):
        speak(engine)


def test_the_base_model_is_spoken_with_when_no_checkpoint_is_named(engine: Xtts, base: Path) -> None:
    """As if its file were named."""
    facts = load(engine, None)
    ours = speak(engine)
    assert (facts["architecture"], facts["warnings"]) == ("XTTS-v2", [])
    assert facts["sha256"] == sha256(base / "model.pth")
    load(engine, base / "model.pth")
    assert same(ours, speak(engine))


def test_a_base_model_that_is_not_there_is_a_command(engine: Xtts, models: Path, tiny_xtts: Path) -> None:
    """The cure, whether there is nothing, or something that is not whole: that is named."""
    with pytest.raises(EngineMissing, match="not on this machine") as caught:
        load(engine, None)
    assert "voicespool models pull xtts" in caught.value.hint
    models.mkdir()
    linked(tiny_xtts, models / "xtts-v2", "config.json")
    with pytest.raises(EngineMissing, match=r"xtts-v2' is not usable: vocab\.json missing or empty") as caught:
        load(engine, None)
    assert "voicespool models pull xtts" in caught.value.hint


def test_an_adapter_is_spoken_with_on_the_base_model(engine: Xtts, base: Path, tmp_path: Path) -> None:
    """What belongs to the base model is not worth a word; the manifest tells of the adapter."""
    adapter = training_runs.adapters(base, tmp_path / "lora") / "adapter_model.safetensors"
    load(engine, None)
    greedy = chunk(do_sample=False)
    plain = speak(engine, greedy)
    facts = load(engine, adapter)
    assert not same(speak(engine, greedy), plain)
    assert (facts["architecture"], facts["warnings"]) == ("LoRA adapter for XTTS-v2", [])
    assert facts["sha256"] == sha256(adapter)


def test_an_adapter_without_the_base_model_is_a_command(engine: Xtts, tiny_xtts: Path, tmp_path: Path) -> None:
    """The cure is the base model."""
    adapter = training_runs.adapters(tiny_xtts.parent, tmp_path / "lora") / "adapter_model.safetensors"
    with pytest.raises(EngineMissing, match="the model XTTS-v2 is not on this machine") as caught:
        load(engine, adapter)
    assert "voicespool models pull xtts" in caught.value.hint


def test_a_file_that_is_gone_is_refused(engine: Xtts, tmp_path: Path) -> None:
    """It may be removed between the claim of a job and its turn."""
    with pytest.raises(RequestRefused, match=r"gone\.pth can't be read: No such file") as caught:
        load(engine, tmp_path / "gone.pth")
    assert "voicespool checkpoints list" in caught.value.hint


# --- from load to close -----------------------------------------------------------------------------------------------


def test_it_speaks_only_while_it_is_loaded(engine: Xtts, checkpoint: Path) -> None:
    """Not before, not after, not when loading failed; an earlier model is never spoken with by mistake."""
    for _ in range(2):
        with pytest.raises(EngineError, match="before it was loaded"):
            next(engine.render(ChunkList([chunk()])))
        load(engine, checkpoint)
        assert speak(engine)[0].size
        engine.close()
    load(engine, checkpoint)
    with pytest.raises(RequestRefused):
        load(engine, checkpoint.with_name("gone.pth"))
    with pytest.raises(EngineError, match="before it was loaded"):
        next(engine.render(ChunkList([chunk()])))


def test_closing_gives_the_memory_back(engine: Xtts, checkpoint: Path) -> None:
    """The model is gone, and the system has its file's pages again; once more does no harm."""
    load(engine, checkpoint)
    assert speak(engine)[0].size
    model = vars(engine._speech)["_model"]
    living = weakref.ref(model.gpt), weakref.ref(model.library)
    del model
    assert is_mapped(checkpoint)
    for _ in range(2):
        engine.close()
        assert [reference() for reference in living] == [None, None]
        assert not is_mapped(checkpoint)


def test_loading_another_one_gives_the_first_ones_memory_back(engine: Xtts, checkpoint: Path, base: Path) -> None:
    """Before the other one takes any."""
    load(engine, checkpoint)
    assert engine._speech is not None
    first = weakref.ref(engine._speech)
    load(engine, None)
    assert first() is None
    assert not is_mapped(checkpoint)


# --- memory that runs out ---------------------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tiny_xtts: Path) -> Card:
    tiny.files(tiny_xtts)  # what prepares the library for being imported
    return Card(monkeypatch)


def test_a_model_too_large_for_the_card_is_loaded_on_the_cpu(engine: Xtts, checkpoint: Path, card: Card) -> None:
    """When the configuration says so; what was loaded by then is gone before, and the manifest knows."""
    from engines.xtts.net import model

    begun: list[weakref.ref[Any]] = []
    make: Any = vars(model)["Gpt"]

    def gpt(library: Any, blocks: Any) -> Any:
        gc.collect()
        assert [one() for one in begun if one() is not None] == []
        begun.append(weakref.ref(library))
        return make(library, blocks)

    card.patch.setattr(model, "Gpt", gpt)
    card.is_too_small_for(model, "HifiGan")
    facts = load(engine, checkpoint, on_card(fallback=True))
    assert (card.refused, len(begun)) == (1, 2)
    assert facts["device"] == "cpu"
    words = "the model does not fit into the memory of cpu:0; continued on the CPU (device.fallback_cpu)"
    assert facts["warnings"] == [words]
    assert speak(engine)[0].size
    assert facts["sha256"] == sha256(checkpoint)


def test_a_batch_too_large_for_the_card_goes_on_on_the_cpu(engine: Xtts, checkpoint: Path, card: Card) -> None:
    """Each chunk comes once and sounds as it should; the card's model is gone while the CPU speaks."""
    import torch

    load(engine, checkpoint)
    chunks = tiny.mixed_chunks()
    expected = speak(engine, *chunks)
    facts = load(engine, checkpoint, on_card(fallback=True))
    assert facts["device"] == "cpu:0"
    assert engine._speech is not None
    on_the_card = weakref.ref(engine._speech)
    patch, found = pytest.MonkeyPatch(), {}
    patch.setattr("engines.xtts.net.speech.MAX_ROWS", {"cpu": 2})
    for one in engine.render(ChunkList(chunks)):
        if one is not None:
            assert one[0] not in found
            assert isinstance(one[1], Audio)
            found[one[0]] = one[1].samples
            assert (on_the_card() is None) == (facts["device"] == "cpu")
            if len(found) == 1:
                card.is_too_small_for(torch.nn.utils.rnn, "pad_sequence")
    patch.undo()
    assert card.refused > 1
    assert same([found[index] for index in range(len(chunks))], expected)
    (warning,) = facts["warnings"]
    assert warning.endswith("continued on the CPU (device.fallback_cpu)")
    assert speak(engine, *chunks)[0].size


def test_it_stays_on_the_card_unless_the_configuration_says_otherwise(
    engine: Xtts, checkpoint: Path, card: Card
) -> None:
    """Then it is an error that is worth another try, with the setting as the cure."""
    from engines.xtts.net import kv_cache, model

    facts = load(engine, checkpoint, on_card(fallback=False))
    card.is_too_small_for(kv_cache, "_zeros")
    with pytest.raises(OutOfMemory, match="not even one sentence") as caught:
        speak(engine)
    assert (caught.value.retryable, facts["device"]) == (True, "cpu:0")
    card.is_too_small_for(model, "HifiGan")
    with pytest.raises(OutOfMemory, match="does not fit into the memory of cpu:0") as caught:
        load(engine, checkpoint, on_card(fallback=False))
    assert "fallback_cpu: true" in caught.value.hint


def test_memory_that_runs_out_on_the_cpu_is_an_error_there(engine: Xtts, checkpoint: Path, card: Card) -> None:
    """There is nowhere to go from it."""
    from engines.xtts.net import kv_cache

    load(engine, checkpoint, Device(name="cpu", precision="float32", fallback_cpu=True))
    card.is_in_use = True
    card.is_too_small_for(kv_cache, "_zeros")
    with pytest.raises(OutOfMemory):
        speak(engine)


@pytest.mark.parametrize(("asked", "found"), [("float32", "float32"), ("float16", None)])
def test_the_cpu_calculates_as_was_asked_for_if_it_can(
    engine: Xtts, checkpoint: Path, card: Card, asked: str, found: str | None
) -> None:
    """float16 is no processor's; then it is what is best there."""
    from engines.xtts.net import model

    card.is_too_small_for(model, "HifiGan")
    facts = load(engine, checkpoint, on_card(fallback=True, precision=asked))
    assert facts["precision"] == (found or runtime.choose(Device(name="cpu")).precision)
