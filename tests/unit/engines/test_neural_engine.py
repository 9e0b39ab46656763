"""What an engine does when a card is too small: it goes on with less, step by step, and tells so."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.base import Audio, Chunk, ChunkList, Device
from engines.checkpoints.reference import CheckpointRef
from engines.errors import OutOfMemory
from engines.f5.engine import F5
from engines.xtts.engine import Xtts
from jobs.order import Order
from tests import f5_models, tiny
from tests.rendered import rendered
from tests.small_card import Card, on_card
from tests.sounds import recording
from watcher.executors.local.warm_engine import WarmEngine

LOW = "continued with the profile low_vram"
CPU = "continued on the CPU (device.fallback_cpu)"
SENTENCE = "not even one sentence fits into the memory of cpu:0"
TEXTS = ("Good morning to all of you.", "No 𓀀.", "It rains, and it will go on raining.")
UNKNOWN = "the model was not trained with '𓀀'; these are not spoken"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    f5_models.prepare()
    monkeypatch.setattr("engines.f5.net.model.MAX_FRAMES", {"cpu": 1})  # a batch for each chunk
    return Card(monkeypatch)


@pytest.fixture
def models(tiny_f5: Path) -> Path:
    """Where the base model is."""
    return tiny_f5.parents[1]


@pytest.fixture
def engine(card: Card) -> Iterator[F5]:
    one = F5()
    yield one
    card.is_in_use = False
    one.close()


@pytest.fixture
def chunks(tmp_path: Path) -> list[Chunk]:
    (tmp_path / "voice.wav").write_bytes(recording())
    said = "Who says so much in no more than six seconds, speaks fast, and is soon done."
    voice: dict[str, Any] = {"recordings": (tmp_path / "voice.wav",), "speaker_text": said}
    return [Chunk(text, "en", 7, settings={"nfe_step": 2}, **voice) for text in TEXTS]


def spoken(engine: F5, chunks: list[Chunk]) -> list[np.ndarray]:
    made = rendered(engine, *chunks)
    assert [audio.warnings for audio in made] == [(UNKNOWN,) if "𓀀" in chunk.text else () for chunk in chunks]
    return [audio.samples for audio in made]


def state(facts: Any) -> tuple[object, ...]:
    return facts["device"], facts["precision"], facts["profile"], facts["settings"]["nfe_step"]


def is_in_float32(backbone: Any, *_given: Any) -> bool:
    import torch

    return bool(backbone.dtype == torch.float32)


def test_a_vocoder_that_does_not_fit_beside_the_network_goes_to_the_cpu(
    engine: F5, card: Card, chunks: list[Chunk], models: Path
) -> None:
    """And the network into 16 bits: the profile low_vram, with all that belongs to it."""
    from engines.torch.vocos import Vocos

    card.is_too_small_for(Vocos, "__init__", lambda _vocos, _folder, device: str(device) == "cpu:0")
    facts: Any = engine.load(None, on_card(fallback=False, precision="auto", models=models))
    assert card.refused == 1
    assert state(facts) == ("cpu:0", "bfloat16", "low_vram", 16)
    assert facts["warnings"] == [f"the model does not fit into the memory of cpu:0; {LOW}"]
    assert all(one.size for one in spoken(engine, chunks))


def test_what_is_spoken_is_kept_when_the_rest_needs_the_profile(
    engine: F5, card: Card, chunks: list[Chunk], models: Path
) -> None:
    """The first model is gone before; the rest sounds as it does under low_vram from the
    beginning.
    """
    from engines.f5.net.backbone import Backbone

    expected = {}
    for profile in ("auto", "low_vram"):
        engine.load(None, Device("cuda", profile=profile, models=models))
        expected[profile] = spoken(engine, chunks)
    facts: Any = engine.load(None, on_card(fallback=False, precision="auto", models=models))
    first = weakref.ref(engine._speech)
    made = {}
    for one in engine.render(ChunkList(chunks)):
        if one is not None:
            assert isinstance(one[1], Audio)
            made[one[0]] = one[1].samples
            assert (first() is None) == (facts["profile"] == "low_vram")
            if len(made) == 1:
                (kept,) = made
                card.is_too_small_for(Backbone, "prepare", is_in_float32)
    assert (card.refused, state(facts)) == (1, ("cpu:0", "bfloat16", "low_vram", 16))
    assert facts["warnings"] == [f"{SENTENCE}; {LOW}"]
    for index in range(len(chunks)):
        wanted = expected["auto" if index == kept else "low_vram"][index]
        np.testing.assert_allclose(made[index], wanted, atol=1e-4)


@pytest.mark.parametrize("fallback", [True, False])
def test_below_the_profile_is_the_cpu(
    engine: F5, card: Card, chunks: list[Chunk], models: Path, fallback: bool
) -> None:
    """If the configuration allows it; each step is told, and all of them to later jobs, too."""
    from engines.f5.net.backbone import Backbone

    facts: Any = engine.load(None, on_card(fallback=fallback, models=models))
    card.is_too_small_for(Backbone, "prepare")
    if not fallback:
        with pytest.raises(OutOfMemory, match=SENTENCE) as caught:
            spoken(engine, chunks)
        assert "fallback_cpu: true" in caught.value.hint
        assert (card.refused, state(facts)) == (2, ("cpu:0", "float32", "low_vram", 16))
        return
    for _job in range(2):
        assert all(one.size for one in spoken(engine, chunks))
        assert card.refused == 2
        assert state(facts) == ("cpu", "float32", "low_vram", 16)
        assert facts["warnings"] == [f"{SENTENCE}; {LOW}", f"{SENTENCE}; {CPU}"]
    card.is_in_use = False
    fresh: Any = engine.load(None, Device("cpu", models=models))
    assert (fresh["profile"], fresh["warnings"]) == ("auto", [])


def test_an_engine_without_a_profile_of_its_own_takes_16_bits(card: Card, tiny_xtts: Path) -> None:
    """XTTS: where it was in float32 by itself, and not where float32 was asked for."""
    from engines.xtts.net import model

    tiny.files(tiny_xtts)
    card.is_too_small_for(model, "HifiGan")
    for precision, refused in (("auto", 2), ("float32", 1)):
        card.refused, engine = 0, Xtts()
        facts: Any = engine.load(tiny_xtts, on_card(fallback=True, precision=precision))
        assert (card.refused, facts["device"], len(facts["warnings"])) == (refused, "cpu", refused)
        engine.close()


def test_one_engine_is_gone_before_the_next_is_loaded(
    card: Card, models: Path, tiny_xtts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F5, XTTS and F5 in turn, as the worker has them."""
    alive: list[weakref.ref[Any]] = []
    warm = WarmEngine()
    for kind in (F5, Xtts):
        own = kind.open

        def opened(self: Any, *given: Any, own: Any = own) -> Any:
            gc.collect()
            assert [one() for one in alive if one() is not None] == []
            made = own(self, *given)
            alive.append(weakref.ref(made.speech))
            return made

        monkeypatch.setattr(kind, "open", opened)
    xtts = CheckpointRef(tiny_xtts, "anna")
    for kind, checkpoint in ((F5, None), (Xtts, xtts), (F5, None)):
        order = Order(
            "id", "hello", {}, kind.info().name, checkpoint, {}, {}, "", "", {"name": "cpu"}, models=str(models)
        )
        warm.for_order(order, kind)
        assert alive[-1]() is not None
    assert len(alive) == 3
    warm.release()
