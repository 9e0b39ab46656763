"""The engine f5, chunk by chunk: what it makes of settings, long texts and recordings, and what it tells of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.base import Audio, Chunk, Device
from engines.errors import RequestRefused
from engines.f5.engine import F5
from tests.f5_models import prepare
from tests.sounds import recording

HOP_S = 256 / 24_000
WORDS = "Who says so much in no more than six seconds, speaks fast, and is soon done."
LONG = "It takes a long time to say all of this. " * 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a recording."""
    (tmp_path / "voice.wav").write_bytes(recording())
    return tmp_path


@pytest.fixture
def engine(tiny_f5: Path) -> Iterator[F5]:
    loaded = F5()
    loaded.load(tiny_f5, Device("cpu", "float32", models=tiny_f5.parents[1]))
    yield loaded
    loaded.close()


def chunk(folder: Path, text: str = "Good morning.", said: str = WORDS, **settings: float) -> Chunk:
    quick = {"nfe_step": 1, "cfg_strength": 0.0, **settings}
    return Chunk(text, "en", 7, recordings=(folder / "voice.wav",), speaker_text=said, settings=quick)


def spoken(engine: F5, *chunks: Chunk) -> list[Audio]:
    made = dict(one for one in engine.render(chunks) if one is not None)
    return [made[index] for index in range(len(chunks))]


def length_s(engine: F5, one: Chunk) -> float:
    (audio,) = spoken(engine, one)
    return audio.samples.size / audio.rate_hz


def told(engine: F5, device: Device, checkpoint: Path | None = None) -> Any:
    """What it says of itself when it is loaded."""
    return engine.load(checkpoint, device)


def test_what_is_said_faster_is_shorter(engine: F5, folder: Path) -> None:
    """By as much; a fixed length is that length, and as long for any text."""
    text = "This is a sentence that takes some seconds."
    usual = length_s(engine, chunk(folder, text))
    assert length_s(engine, chunk(folder, text, speed=2.0)) == pytest.approx(usual / 2, rel=0.1)
    for one in (text, LONG):
        assert length_s(engine, chunk(folder, one, fix_duration_s=3.0)) == pytest.approx(3.0, abs=2 * HOP_S)


def test_what_is_too_long_for_one_go_is_joined_of_overlapping_parts(engine: F5, folder: Path) -> None:
    """Nothing of it is lost: the parts are as long as they are apart, but for where they overlap."""
    apart = length_s(engine, chunk(folder, LONG, cross_fade_s=0.0))
    joined = length_s(engine, chunk(folder, LONG))
    parts = round((apart - joined) / 0.15) + 1
    assert parts >= 2
    assert apart - joined == pytest.approx((parts - 1) * 0.15, abs=1e-3)


def test_no_word_is_lost_between_parts(engine: F5, folder: Path) -> None:
    """Joined again they are the text, and each is short enough; what has no space stays whole."""
    prepare()
    from engines.f5.net.speech import MAX_S, F5Speech

    speech = engine._speech
    assert isinstance(speech, F5Speech)
    voice = speech._voice(chunk(folder))
    room_s = MAX_S - voice.frames * HOP_S
    for text in (LONG.strip(), "one two", "x" * 2000, f"{'x' * 2000} and more"):
        parts = speech._split(text, voice, 1.0)
        assert " ".join(parts) == text
        assert all(" " not in part[: len(part) // 2] or speech._speech_s(part, voice, 1.0) <= room_s for part in parts)


def test_the_shortest_word_has_time_to_be_said(engine: F5, folder: Path) -> None:
    """And any chunk has more than its letters take, for its first and last sounds."""
    assert length_s(engine, chunk(folder, "I.", speed=2.0)) == pytest.approx(0.7, abs=2 * HOP_S)
    short, long = (length_s(engine, chunk(folder, "banana " * count)) for count in (4, 8))
    assert 2 * short - long == pytest.approx(0.15, abs=4 * HOP_S)


@pytest.mark.parametrize(
    ("transcript", "is_closed"),
    [
        ("Good morning", "Good morning. "),
        (" Good morning! ", "Good morning! "),
        ('He said: "Good morning."', 'He said: "Good morning." '),
        ("Ele disse «bom dia»", "Ele disse «bom dia». "),
        ("(Who is it?)", "(Who is it?) "),
        ("他说：“好。”", "他说：“好。”"),
        ("好", "好. "),
    ],
)
def test_a_transcript_ends_as_a_sentence_does_and_once(transcript: str, is_closed: str) -> None:
    prepare()
    from engines.f5.net.symbols import prompt_text

    assert prompt_text(transcript) == is_closed


def test_sounds_fade_into_each_other() -> None:
    prepare()
    import torch

    from engines.f5.net.speech import cross_faded

    loud, soft, short = torch.ones(8), torch.full((8,), 0.5), torch.zeros(2)
    assert cross_faded([loud], 4).tolist() == loud.tolist()
    assert cross_faded([loud, soft], 0).tolist() == [1.0] * 8 + [0.5] * 8
    made = cross_faded([loud, soft], 4)
    assert made.shape == (12,)
    np.testing.assert_allclose(made, [1] * 5 + [1 - 0.5 / 3, 1 - 1 / 3] + [0.5] * 5, rtol=1e-6)
    assert cross_faded([loud, short, soft], 4).shape == (8 + (2 - 2) + (8 - 4),)


def test_what_is_told_of_one_job_is_not_told_of_the_next(engine: F5, folder: Path, tiny_f5: Path) -> None:
    """Characters that it can't say, recordings that were cut, and what is said in those that were used."""
    facts = told(engine, Device("cpu", "float32", models=tiny_f5.parents[1]))
    before = list(facts["warnings"])
    spoken(engine, chunk(folder, "Good 𓀀 morning, 𓁐."), chunk(folder, "𓀀 again"))
    assert facts["warnings"] == [*before, "the model was not trained with '𓀀', '𓁐'; these are not spoken"]
    spoken(engine, chunk(folder))
    assert facts["warnings"] == before
    assert facts["transcripts"] == {str(folder / "voice.wav"): WORDS}
    spoken(engine)
    assert "transcripts" not in facts


def test_what_a_voice_lacks_is_refused_in_words(engine: F5, folder: Path) -> None:
    bare = Chunk("Good morning.", "en", 7)
    for one, words in (
        (bare, "f5 needs a reference recording"),
        (chunk(folder, said=" "), "f5 needs a transcript"),
        (chunk(folder, said="…!"), "has no words"),
    ):
        with pytest.raises(RequestRefused, match=words):
            spoken(engine, one)
    assert spoken(engine, chunk(folder))


def test_low_vram_asks_for_fewer_evaluations_where_a_job_says_nothing(engine: F5, tiny_f5: Path) -> None:
    """Also on the CPU, so that what fell back on it sounds the same; nothing else is small there."""
    for profile, steps in (("auto", 32), ("low_vram", 16)):
        facts = told(engine, Device("cpu", "float32", profile, models=tiny_f5.parents[1]))
        assert (facts["settings"]["nfe_step"], facts["precision"], facts["profile"]) == (steps, "float32", profile)


def test_a_vocoder_elsewhere_takes_no_memory_of_the_network(tiny_f5: Path) -> None:
    """Only the network's own counts then; both speak the same."""
    prepare()
    import torch

    from engines.checkpoints import inspection
    from engines.f5.net.flow import SolverSettings
    from engines.f5.net.model import F5Files, F5Model
    from tests.f5_models import request

    found = inspection.inspect(tiny_f5)
    assert found.sizes is not None
    files = F5Files(tiny_f5, found.tensors, found.sizes, tiny_f5.parents[1] / "vocos-mel-24khz")
    one = request(found.sizes, 0, SolverSettings(1, 0.0))
    beside, elsewhere = (F5Model(files, "cpu", torch.float32, where) for where in (None, "cpu:0"))
    assert str(beside.vocoder.device) == "cpu"
    spoken_frames = one.conditions.duration - len(one.reference.mel) + 1
    needed = beside.vocoder.bytes_for(spoken_frames)
    assert beside.request_bytes(one) == max(needed, elsewhere.request_bytes(one))
    assert elsewhere.request_bytes(one) == beside.backbone.bytes_for(one.conditions.duration, use_cfg=False)
