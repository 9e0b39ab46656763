"""The engine f5, chunk by chunk and as a stream: settings, long texts, recordings, and which chunks share a batch."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engines.base import Audio, Chunk, ChunkList, Device, Rendered
from engines.errors import CheckpointRefused, RequestRefused
from engines.f5.engine import F5
from tests.f5_models import prepare
from tests.rendered import rendered
from tests.sounds import RATE_HZ, recording, save

if TYPE_CHECKING:
    from engines.f5.net.model import F5Model

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


def length_s(engine: F5, one: Chunk) -> float:
    (audio,) = rendered(engine, one)
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


def test_what_a_voice_lacks_is_refused_in_words(engine: F5, folder: Path) -> None:
    bare = Chunk("Good morning.", "en", 7)
    for one, words in (
        (bare, "f5 needs a reference recording"),
        (chunk(folder, said=" "), "f5 needs a transcript"),
        (chunk(folder, said="…!"), "has no words"),
    ):
        with pytest.raises(RequestRefused, match=words):
            rendered(engine, one)
    assert rendered(engine, chunk(folder))


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


# --- streams ---------------------------------------------------------------------------------------------------------


class Arriving:
    """A source to which chunks may be added at any time: `waiting`, most urgent first."""

    def __init__(self, *waiting: tuple[int, Chunk]) -> None:
        self.waiting = [*waiting]
        self.taken: list[int] = []

    def urgent(self, most: int) -> Sequence[tuple[int, Chunk]]:
        raise AssertionError("this engine does not ask")

    def take(self, most: int) -> Sequence[tuple[int, Chunk]]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        self.taken += [number for number, _chunk in taken]
        return taken


class Stream:
    """A source being rendered.

    Attributes:
        model: For as many sequences of about 650 frames in a batch as a test wants.
        batches: The numbers of the chunks of each batch.
        results: Of each chunk, by its number.
    """

    def __init__(self, engine: F5, patch: pytest.MonkeyPatch, most: int = 2) -> None:
        self.engine, self.model = engine, model_of(engine)
        self.batches: list[set[int]] = []
        self.results: dict[int, object] = {}
        patch.setattr(self.model, "_max_frames", most * 650 + 300)
        own = self.model.backbone.prepare

        def noting(*given: Any, **named: Any) -> Any:
            self.batches.append(set())
            return own(*given, **named)

        patch.setattr(self.model.backbone, "prepare", noting)

    def follow(self, source: Arriving) -> Iterator[int]:
        """How many batches were begun, at each sign of life and each result."""
        each: Rendered | None
        for each in self.engine.render(source):
            if each is not None:
                number, result = each
                assert number not in self.results
                self.results[number] = result
                if isinstance(result, Audio):
                    self.batches[-1].add(number)
            yield len(self.batches)


def model_of(engine: F5) -> F5Model:
    prepare()
    from engines.f5.net.speech import F5Speech

    assert isinstance(engine._speech, F5Speech)
    return engine._speech._model


@pytest.fixture
def stream(engine: F5, monkeypatch: pytest.MonkeyPatch) -> Stream:
    return Stream(engine, monkeypatch)


def alike(one: object, other: object) -> bool:
    assert isinstance(one, Audio)
    assert isinstance(other, Audio)
    np.testing.assert_allclose(one.samples, other.samples, atol=1e-5)
    return (one.warnings, one.transcript) == (other.warnings, other.transcript)


def test_what_arrives_while_others_are_rendered_is_in_the_next_batch(stream: Stream, folder: Path) -> None:
    """As much as the batch has room for; nothing is taken before there is."""
    source = Arriving((0, chunk(folder)), (1, chunk(folder, "Good evening.")))
    more = [(2, chunk(folder, "Good night.")), (3, chunk(folder)), (4, chunk(folder)), (5, chunk(folder))]
    for begun in stream.follow(source):
        if begun == 1 and more:
            assert source.taken == [0, 1]
            source.waiting += more
            more = []
    assert [len(batch) for batch in stream.batches] == [2, 2, 2]
    assert {2, 3} == stream.batches[1]


def test_a_chunk_that_cannot_be_prepared_leaves_the_others(engine: F5, stream: Stream, folder: Path) -> None:
    """It has its own error; the others sound as they do alone."""
    (folder / "bad.wav").write_bytes(b"no sound")
    good = {0: chunk(folder), 2: chunk(folder, "Good evening."), 5: chunk(folder, LONG, nfe_step=2)}
    unusable = Chunk("Good.", "en", 7, recordings=(folder / "bad.wav",), speaker_text=WORDS)
    bad = {1: Chunk("Good.", "en", 7), 3: chunk(folder, said=" "), 4: unusable}
    alone = {number: rendered(engine, one)[0] for number, one in good.items()}
    stream.batches.clear()
    for _begun in stream.follow(Arriving(*sorted({**good, **bad}.items()))):
        pass
    assert sorted(stream.results) == [0, 1, 2, 3, 4, 5]
    assert all(isinstance(stream.results[number], RequestRefused) for number in bad)
    assert all(alike(stream.results[number], alone[number]) for number in good)


def test_where_nothing_can_be_prepared_nothing_is_rendered(stream: Stream, folder: Path) -> None:
    for _begun in stream.follow(Arriving((0, Chunk("Good.", "en", 7)), (1, chunk(folder, said="")))):
        pass
    assert (sorted(stream.results), stream.batches) == ([0, 1], [])


def test_an_unknown_variant_refuses_each_chunk(folder: Path, tiny_f5: Path, tmp_path: Path) -> None:
    """Random weights decide nothing. Another recording might, so it is measured with the next one."""
    for name in (tiny_f5.name, "vocab.txt"):
        shutil.copy(tiny_f5.with_name(name), tmp_path)
    engine = F5()
    engine.load(tmp_path / tiny_f5.name, Device("cpu", "float32", models=tiny_f5.parents[1]))
    made = dict(each for each in engine.render(ChunkList([Chunk("Good.", "en", 7), chunk(folder)])) if each)
    assert {number: type(refused) for number, refused in made.items()} == {0: RequestRefused, 1: CheckpointRefused}
    assert "can't determine whether" in str(made[1])
    engine.close()


def test_what_is_urgent_is_in_the_next_batch_although_others_wait(stream: Stream, folder: Path) -> None:
    """Chunks with other settings were taken before it, and can't share a batch with it."""
    ways = [chunk(folder, nfe_step=2 - number % 2) for number in range(6)]
    source, urgent = Arriving(*enumerate(ways)), [(6, chunk(folder, nfe_step=3))]
    for begun in stream.follow(source):
        if begun == 1 and urgent:
            assert {1, 3} <= {*source.taken} - {0, 2}
            source.waiting[:0] = urgent
            urgent = []
    assert stream.batches == [{0, 2}, {6}, {1, 3}, {4}, {5}]


def test_what_is_urgent_comes_before_the_rest_of_a_long_text(stream: Stream, folder: Path) -> None:
    """Although each of its parts fills a batch."""
    source, urgent = Arriving((0, chunk(folder, LONG))), [(1, chunk(folder))]
    for begun in stream.follow(source):
        if begun == 1 and urgent:
            source.waiting += urgent
            urgent = []
    assert stream.batches == [set(), {1}, {0}]


def test_what_waits_is_not_passed_over_for_ever(stream: Stream, folder: Path) -> None:
    """However many urgent ones arrive."""
    source = Arriving((0, chunk(folder)), (1, chunk(folder, nfe_step=2)))
    for begun in stream.follow(source):
        if begun < 6 and not source.waiting:
            source.waiting.append((1 + len(source.taken), chunk(folder)))
    assert 1 in stream.batches[2]


def test_few_are_taken_before_they_can_be_rendered(stream: Stream, folder: Path) -> None:
    """Where no two can share a batch: a batch is made, although one with more would be there. One by one where memory
    is short.
    """
    source = Arriving(*((number, chunk(folder, nfe_step=1, cfg_strength=number / 10**7)) for number in range(40)))
    for _begun in stream.follow(source):
        assert len(source.taken) - len(stream.results) <= 8
    assert len(stream.batches) == 40


def test_memory_is_measured_for_each_batch(engine: F5, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """One chunk after the other is taken while there is none, and several as soon as there is some."""
    stream, free = Stream(engine, monkeypatch, most=4), count(-2)
    monkeypatch.setattr("engines.device.runtime.free_bytes", lambda _device: max(0, next(free)) << 40)
    source = Arriving(*((number, chunk(folder)) for number in range(7)))
    for begun in stream.follow(source):
        assert begun > 2 or len(source.taken) <= len(stream.results) + 1
    assert stream.batches == [{0}, {1}, {2}, {3, 4, 5, 6}]


def test_where_memory_runs_out_nothing_is_lost_and_nothing_comes_twice(
    engine: F5, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Also of a text in several parts."""
    stream = Stream(engine, monkeypatch, most=8)
    own = stream.model.backbone.prepare
    asked: list[int] = []

    def small(batch: Sequence[Any], *others: Any, **named: Any) -> Any:
        asked.append(len(batch))
        if len(batch) > 1:
            raise MemoryError
        return own(batch, *others, **named)

    monkeypatch.setattr(stream.model.backbone, "prepare", small)
    texts = ("Good morning.", LONG, "Good night.", "Good evening.")
    for _begun in stream.follow(Arriving(*((number, chunk(folder, text)) for number, text in enumerate(texts)))):
        pass
    assert asked[0] == 3
    assert sorted(stream.results) == [0, 1, 2, 3]


def test_what_is_told_of_a_chunk_is_its_own(engine: F5, stream: Stream, folder: Path) -> None:
    """Characters that the model does not know, a recording that was cut, and what is said in the rest of it."""
    pause = np.zeros(RATE_HZ // 2)
    save(folder / "long.wav", np.concatenate([humming(8.0), pause, humming(5.0)]))
    first, second = " ".join(["hello"] * 16) + ".", " ".join(["there"] * 10) + "."
    cut = Chunk("Good.", "en", 7, None, (folder / "long.wav",), f"{first} {second}", {"nfe_step": 1})
    odd, plain = chunk(folder, "Good 𓁐 morning, 𓀀."), chunk(folder)
    for _begun in stream.follow(Arriving((0, odd), (1, cut), (2, plain), (3, cut), (4, odd), (5, plain))):
        pass
    told = {}
    for number, result in stream.results.items():
        assert isinstance(result, Audio)
        told[number] = result.transcript, [*result.warnings]
    unknown = "the model was not trained with '𓀀', '𓁐'; these are not spoken"
    assert told[0] == told[4] == (WORDS, [unknown])
    assert told[2] == told[5] == (WORDS, [])
    transcript, (warning,) = told[1]
    assert told[1] == told[3]
    assert transcript == first
    assert warning.startswith("the recording and its transcript were cut from 13.")
    assert alike(stream.results[1], rendered(engine, cut)[0])


def humming(seconds: float) -> Any:
    """A sound without pauses."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return 0.2 * np.sin(2 * np.pi * 150 * time_s) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s))


def test_of_what_is_done_nothing_is_kept(stream: Stream, folder: Path) -> None:
    """However long the stream: there are as many requests as can wait."""
    prepare()
    from engines.f5.net.model import Request

    source, most = Arriving(*((number, chunk(folder)) for number in range(40))), 0
    for _begun in stream.follow(source):
        if len(stream.results) % 10 == 9:
            gc.collect()
            most = max(most, sum(isinstance(thing, Request) for thing in gc.get_objects()))
    assert 0 < most < 10
