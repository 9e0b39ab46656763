"""Chunks in, speech out: the library's sound for each, in batches of any size, with voices of every kind."""

from __future__ import annotations

import gc
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import Audio, Chunk, ChunkList, ChunkSource
from engines.errors import EngineError, OutOfMemory, RequestRefused
from engines.xtts.net.latents import LatentCache
from tests import sounds, tiny
from tests.model_files import Runs

if TYPE_CHECKING:
    from engines.xtts.net.speech import XttsSpeech
    from tests.tiny import Library

Samples = NDArray[np.float32]
NOISE = 1e-4
GREEDY = {"do_sample": False}
Made = Callable[..., "XttsSpeech"]


@pytest.fixture
def made(model: Any, tiny_xtts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Makes a Speech of the tiny model, with a cache of the test's own."""
    monkeypatch.setenv("VOICESPOOL_CACHE", str(tmp_path / "cache"))
    speakers_of_it = tiny_xtts.with_name("speakers_xtts.pth")

    def make(speakers: Path | None = speakers_of_it, of: Any = None) -> XttsSpeech:
        from engines.xtts.net.speech import XttsSpeech

        return XttsSpeech(of or model, "cpu", speakers)

    return make


@pytest.fixture
def speech(made: Made) -> XttsSpeech:
    return made()


def speak(speech: XttsSpeech, *chunks: Chunk) -> list[Samples]:
    """The samples of chunks in their order."""
    found = spoken(speech, ChunkList(chunks))
    assert sorted(found) == list(range(len(chunks)))
    return [found[index] for index in range(len(chunks))]


def spoken(speech: XttsSpeech, chunks: ChunkSource) -> dict[int, Samples]:
    """The samples of chunks by number, each of which comes once; the error of a chunk is raised."""
    found: dict[int, Samples] = {}
    for one in speech.speak(chunks):
        if one is not None:
            number, audio = one
            if not isinstance(audio, Audio):
                raise audio
            assert number not in found
            assert audio.rate_hz == speech.rate_hz
            found[number] = audio.samples
    return found


def chunk(text: str = "Who is there?", **more: Any) -> Chunk:
    return replace(Chunk(text, "en", 7, speaker="Ana Florence"), **more)


def close(one: Samples, other: Samples, noise: float = NOISE) -> bool:
    return one.shape == other.shape and float(np.abs(one - other).max()) <= noise


def with_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """At most so many chunks at a time."""
    from engines.xtts.net import speech

    monkeypatch.setitem(speech.MAX_ROWS, "cpu", rows)


# --- as the library ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def expected(library: Library) -> list[Samples]:
    """What the library's own calls make of `tiny.mixed_chunks`, one by one."""
    return [library.say(one) for one in tiny.mixed_chunks()]


@pytest.mark.parametrize("rows", [2, 32])
def test_a_batch_sounds_as_the_librarys_own_calls(
    speech: XttsSpeech, expected: list[Samples], monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Texts of mixed length, two voices, speeds and penalties that differ; with more chunks than rows, and fewer."""
    with_rows(monkeypatch, rows)
    assert len({len(sound) for sound in expected}) > 2
    for ours, theirs in zip(speak(speech, *tiny.mixed_chunks()), expected, strict=True):
        assert close(ours, theirs)


def test_alone_it_sounds_as_the_librarys_own_call(speech: XttsSpeech, expected: list[Samples]) -> None:
    """Each chunk for itself."""
    for number in (1, 2, 3):
        assert close(speak(speech, tiny.mixed_chunks()[number])[0], expected[number])


def test_a_recording_is_spoken_with_as_the_library_does(speech: XttsSpeech, library: Library, tmp_path: Path) -> None:
    """From the file to the samples."""
    voice = sounds.save(tmp_path / "ana.wav", sounds.speech(4.0))
    defaults = speech._model.defaults
    heard = library.hear(
        [voice], max_ref_length=defaults["max_ref_len"], gpt_cond_len=defaults["gpt_cond_len"],
        gpt_cond_chunk_len=defaults["gpt_cond_chunk_len"], sound_norm_refs=defaults["sound_norm_refs"],
    )  # fmt: skip
    said = library.model.inference("Who is there?", "en", *heard, do_sample=False, repetition_penalty=5.0)
    ours = speak(speech, chunk(speaker=None, recordings=(voice,), settings=GREEDY))[0]
    assert close(ours, said["wav"])


def test_beams_sound_as_the_librarys_own_call(speech: XttsSpeech, library: Library) -> None:
    """Beside chunks without any, whose sound does not change for it."""
    voice = library.voices["Ana Florence"]
    said = library.model.inference(
        "Who is there?", "en", voice["gpt_cond_latent"], voice["speaker_embedding"],
        do_sample=False, num_beams=2, repetition_penalty=5.0, length_penalty=2.0, speed=1.3,
    )  # fmt: skip
    searched = chunk(settings={**GREEDY, "num_beams": 2, "length_penalty": 2.0, "speed": 1.3})
    plain = chunk("No.", settings=GREEDY)
    both = speak(speech, searched, plain)
    assert close(both[0], said["wav"])
    assert close(both[1], speak(speech, plain)[0])


def test_seeds_decide(speech: XttsSpeech) -> None:
    """The same one gives the same samples, another one others; in any order and company."""
    first, other, same = speak(speech, *(chunk(seed=seed) for seed in (1, 2, 1)))
    assert close(first, same)
    assert not close(first, other)
    assert close(speak(speech, chunk("No.", seed=5), chunk(seed=2))[1], other)


def test_the_largest_seed_is_one(speech: XttsSpeech) -> None:
    """Also where a text is cut and the second part needs another one."""
    assert all(sound.size for sound in speak(speech, chunk(seed=2**63 - 1), chunk("many words " * 60, seed=2**63 - 1)))


# --- chunks that come while others are rendered -----------------------------------------------------------------------


class Arriving:
    """A `ChunkSource` of chunks that arrive in portions: each when another chunk was returned.

    Attributes:
        returned: Number of chunks that were returned.
        in_progress: For each chunk, how many others were being rendered when it was taken.
    """

    def __init__(self, *portions: Sequence[Chunk]) -> None:
        chunks = [chunk for portion in portions for chunk in portion]
        self._arrives = [number for number, portion in enumerate(portions) for _ in portion]
        self._waiting = deque(enumerate(chunks))
        self.returned = 0
        self.in_progress: list[int] = []

    def take(self, most: int) -> Sequence[tuple[int, Chunk]]:
        assert most > 0
        taken: list[tuple[int, Chunk]] = []
        while self._waiting and len(taken) < most and self._arrives[self._waiting[0][0]] <= self.returned:
            taken.append(self._waiting.popleft())
            self.in_progress.append(len(self.in_progress) - self.returned)
        return taken

    def urgent(self, most: int) -> Sequence[tuple[int, Chunk]]:
        return ()


def arrived(speech: XttsSpeech, source: Arriving) -> dict[int, Any]:
    """The samples of each chunk, or its error; each comes once."""
    found: dict[int, Any] = {}
    for one in speech.speak(source):
        if one is not None:
            number, audio = one
            assert number not in found
            found[number] = audio.samples if isinstance(audio, Audio) else audio
            source.returned += 1
    return found


def test_chunks_that_arrive_are_taken_into_the_running_batch(
    speech: XttsSpeech, expected: list[Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were there are not waited for, none sounds another way, and no more are taken than there are rows."""
    with_rows(monkeypatch, 4)
    chunks = tiny.mixed_chunks()
    source = Arriving(chunks[:3], chunks[3:4], chunks[4:5], chunks[5:], chunks[:3])
    found = arrived(speech, source)
    assert sorted(found) == list(range(len(chunks) + 3))
    assert all(close(found[number], one) for number, one in enumerate([*expected, *expected[:3]]))
    assert source.in_progress[:3] == [0, 1, 2]
    assert min(source.in_progress[3:6]) > 0
    assert max(source.in_progress) < 4


def test_mixed_chunks_sound_as_each_alone(speech: XttsSpeech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in voices and recordings, languages, seeds, speeds, sampling, a text in parts."""
    ana = sounds.save(tmp_path / "ana.wav", sounds.speech(2.0))
    chunks = [
        chunk(), chunk("Quem está aí?", language="pt", speaker="Viktor Eka"), chunk(speaker=None, recordings=(ana,)),
        chunk("Wer ist da?", language="de", settings={"temperature": 0.2, "speed": 1.4}), chunk(settings=GREEDY),
        chunk("many words follow here " * 30), chunk(seed=8, settings={"top_k": 3, "repetition_penalty": 1.0}),
        chunk("¿Quién es?", language="es", speaker=None, recordings=(ana,), settings={"gpt_cond_len": 1,
              "gpt_cond_chunk_len": 1, "speed": 0.7}),
    ]  # fmt: skip
    alone = [speak(speech, one)[0] for one in chunks]
    assert len({one.tobytes() for one in alone}) == len(alone)
    for rows in (3, 32):
        with_rows(monkeypatch, rows)
        source = Arriving(chunks[:2], chunks[2:6], chunks[6:])
        found = arrived(speech, source)
        assert all(close(found[number], one) for number, one in enumerate(alone))


class Overtaking(Arriving):
    """A source with chunks that are more urgent than the others, and come when these are being generated.

    Args:
        chunks: The others; there is a row for each.
        urgent: By how often the engine has asked for them before.
    """

    def __init__(self, chunks: Sequence[Chunk], urgent: Mapping[int, Sequence[Chunk]]) -> None:
        super().__init__(chunks)
        self._urgent, self._asked, self._number = urgent, 0, len(chunks)

    def urgent(self, most: int) -> Sequence[tuple[int, Chunk]]:
        self._asked += 1
        coming = list(enumerate(self._urgent.get(self._asked, ()), start=self._number))
        self._number += len(coming)
        assert len(coming) <= most
        return coming


def test_an_urgent_chunk_overtakes_those_that_are_being_generated(
    speech: XttsSpeech, expected: list[Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends first, although all rows are taken, and nothing sounds another way; a text in parts as well."""
    chunks = tiny.mixed_chunks()
    with_rows(monkeypatch, len(chunks))
    urgent = [chunk("Now.", seed=3), chunk("many words follow here " * 30, seed=4)]
    alone = [*expected, speak(speech, urgent[0])[0], speak(speech, urgent[1])[0], speak(speech, urgent[0])[0]]
    found = arrived(speech, Overtaking(chunks, {1: urgent, 2: urgent[:1]}))
    order, count = list(found), len(chunks)
    assert set(order[:3]) == {count, count + 1, count + 2}
    assert sorted(order) == list(range(count + 3))
    assert all(close(found[number], one) for number, one in enumerate(alone))


def test_a_chunk_that_can_not_be_rendered_leaves_the_others(
    speech: XttsSpeech, expected: list[Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is returned with its own error: no voice, an unknown one, a recording that is none or gone, a failure."""
    monkeypatch.setattr(speech._model, "tokenize", tokenize_or_fail(speech._model.tokenize))
    (tmp_path / "noise.wav").write_bytes(b"this is no sound")
    bad = [
        chunk(speaker=None), chunk(speaker="nobody"), chunk(recordings=(tmp_path / "noise.wav",)),
        chunk(recordings=(tmp_path / "gone.wav",)), chunk("broken"),
    ]  # fmt: skip
    words = ["gives none", "no voice 'nobody'", "the recording", r"gone\.wav can't be read", "it is broken"]
    good = tiny.mixed_chunks()
    with_rows(monkeypatch, 2)
    found = arrived(speech, Arriving([bad[0], *good[:3], bad[1]], bad[2:4], [*good[3:], bad[4]]))
    errors = [found.pop(number) for number in (0, 4, 5, 6, 10)]
    for error, text in zip(errors, words, strict=True):
        assert isinstance(error, EngineError)
        assert re.search(text, error.message)
    assert [isinstance(error, RequestRefused) for error in errors] == [True, True, True, True, False]
    assert all(close(found[number], one) for number, one in zip(sorted(found), expected, strict=True))


def tokenize_or_fail(tokenize: Any) -> Any:
    def tokenized(text: str, language: str) -> Any:
        if text == "broken":
            raise ValueError("it is broken")
        return tokenize(text, language)

    return tokenized


def test_a_chunk_too_long_for_the_running_batch_is_rendered(
    speech: XttsSpeech, model: Any, expected: list[Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though there is memory for two rows of the others, and hardly for one of it; they come before and after."""
    from engines.device import runtime

    long = chunk("a b " * 98, settings=GREEDY)
    assert model.max_text_tokens * 0.8 < len(model.tokenize(long.text, "en")) < model.max_text_tokens
    (alone,) = speak(speech, long)
    monkeypatch.setattr(runtime, "free_bytes", lambda _device: 4 * row_bytes(model) + 1)
    chunks = tiny.mixed_chunks()
    found = arrived(speech, Arriving(chunks[:2], [long], chunks[2:]))
    assert close(found.pop(2), alone)
    assert all(close(found[number], one) for number, one in zip(sorted(found), expected, strict=True))


def row_bytes(model: Any) -> int:
    """Memory of a row of ordinary sentences."""
    size = model.gpt.ordinary_len
    return int(model.gpt.row_bytes(size) + model.gpt.prefill_bytes(size))


def test_beams_come_in_between(speech: XttsSpeech, expected: list[Samples]) -> None:
    """Alone, when those that were taken before are done; those that arrive meanwhile come after."""
    searched = chunk(settings={**GREEDY, "num_beams": 2})
    (alone,) = speak(speech, searched)
    chunks = tiny.mixed_chunks()
    found = arrived(speech, Arriving([searched, *chunks[:2]], [searched], [*chunks[2:4], searched, *chunks[4:]]))
    assert all(close(found.pop(number), alone) for number in (0, 3, 6))
    assert all(close(found[number], one) for number, one in zip(sorted(found), expected, strict=True))


def test_nothing_is_kept_of_what_is_done(speech: XttsSpeech, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many chunks come: no more than are being rendered."""
    from engines.xtts.net.speech import _Plan

    with_rows(monkeypatch, 2)
    count = 0
    for one in speech.speak(ChunkList(chunk("No.", seed=seed) for seed in range(8))):
        if one is not None:
            count += 1
            assert sum(type(thing) is _Plan for thing in gc.get_objects()) <= 3
    assert count == 8


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["many words follow here " * 30, "a" * 900, "In 1987, 65432 of 987654321 came. " * 8])
def test_a_text_too_long_for_the_model_is_spoken_in_parts(speech: XttsSpeech, model: Any, text: str) -> None:
    """Where it has more tokens than the model has places: nothing is lost, and the parts are joined."""
    text = text.strip()
    assert len(model.tokenize(text, "en")) >= model.max_text_tokens
    parts = speech._tokenize(text, "en")
    assert len(parts) > 1
    assert all(0 < len(part) < model.max_text_tokens for part in parts)
    letters = [token for part in parts for token in part.tolist() if token > model.tokenize("", "en").max()]
    assert letters == [token for token in model.tokenize(text, "en").tolist() if token > model.tokenize("", "en").max()]
    limit = model.gpt.max_gen_mel_tokens * model.vocoder.samples_per_latent
    (sound,) = speak(speech, chunk(text))
    assert sound.size > limit / 2 * len(parts) / 2


def test_parts_sound_as_if_they_were_chunks(speech: XttsSpeech) -> None:
    """Joined in the order of the text, whichever was done first."""
    text = " ".join(f"word number {number}" for number in range(40))
    space = text.rfind(" ", 0, len(text) // 2)
    settings = {"do_sample": False, "speed": 1.3}
    halves = speak(speech, chunk(text[:space], settings=settings), chunk(text[space:], settings=settings))
    (whole,) = speak(speech, chunk(text, settings=settings))
    assert close(whole, np.concatenate(halves))


# --- voices -----------------------------------------------------------------------------------------------------------


def refused(speech: XttsSpeech, one: Chunk, words: str) -> RequestRefused:
    with pytest.raises(RequestRefused, match=words) as caught:
        speak(speech, one)
    assert caught.value.hint != RequestRefused.hint
    return caught.value


def test_without_a_voice_it_says_what_to_give(speech: XttsSpeech) -> None:
    """Neither a recording nor a speaker."""
    assert "speaker_wav" in refused(speech, chunk(speaker=None), "gives none").hint


def test_an_unknown_speaker_is_refused_with_those_near_it(speech: XttsSpeech) -> None:
    """A slip of the pen is answered with the name; the list is a command."""
    error = refused(speech, chunk(speaker="Ana Floreng"), "no voice 'Ana Floreng'; near it: Ana Florence$")
    assert "voicespool voices list" in error.hint
    assert "near" not in refused(speech, chunk(speaker="xyz"), "no voice 'xyz'").message


def test_a_model_without_speakers_says_so(made: Made) -> None:
    """And what to do."""
    assert "speaker_wav" in refused(made(None), chunk(), "has no built-in voices").hint


def test_speakers_are_read_as_the_library_writes_them(made: Made, library: Library, tmp_path: Path) -> None:
    """Its latents are transposed when it saves them; their order in memory is not that of their shape."""
    import torch

    turned = {
        name: {**parts, "gpt_cond_latent": parts["gpt_cond_latent"].transpose(1, 2).contiguous().transpose(1, 2)}
        for name, parts in library.voices.items()
    }
    assert not turned["Ana Florence"]["gpt_cond_latent"].is_contiguous()
    torch.save(turned, tmp_path / "speakers_xtts.pth")
    one = chunk(settings=GREEDY)
    assert close(speak(made(tmp_path / "speakers_xtts.pth"), one)[0], speak(made(), one)[0])


@pytest.mark.parametrize("kind", ["code", "text", "wide", "halved", "nan", "gone"])
def test_a_file_of_speakers_that_is_none_is_refused(made: Made, library: Library, tmp_path: Path, kind: str) -> None:
    """Nothing in it is run, and what is wrong with it is said."""
    import torch

    path, witness = tmp_path / "speakers_xtts.pth", tmp_path / "witness"
    latent, embedding = torch.ones(1, 32, 64), torch.ones(1, 512, 1)
    voices: dict[str, Any] = {
        "wide": {"gpt_cond_latent": torch.ones(1, 32, 1024), "speaker_embedding": embedding},
        "nan": {"gpt_cond_latent": latent * torch.nan, "speaker_embedding": embedding},
        "halved": {"gpt_cond_latent": latent},
        "code": Runs(witness),
    }
    if kind == "text":
        path.write_text("these are no voices")
    elif kind != "gone":
        torch.save({"Ana Florence": voices[kind]}, path)
    with pytest.raises(RequestRefused) as caught:
        speak(made(path), chunk())
    assert "speakers_xtts.pth" in caught.value.message
    assert not witness.exists()


def test_a_recording_that_is_none_is_refused(speech: XttsSpeech, tmp_path: Path) -> None:
    """In words; the spool looks before, but it may change meanwhile."""
    (tmp_path / "noise.wav").write_bytes(b"this is no sound")
    with pytest.raises(RequestRefused, match="the recording"):
        speak(speech, chunk(recordings=(tmp_path / "noise.wav",)))


def test_listening_has_settings_that_go_together(speech: XttsSpeech, tmp_path: Path) -> None:
    """A part of what is listened to is not longer than the whole."""
    voice = sounds.save(tmp_path / "ana.wav", sounds.speech(2.0))
    settings = {"gpt_cond_len": 2, "gpt_cond_chunk_len": 3}
    refused(speech, chunk(recordings=(voice,), settings=settings), "gpt_cond_chunk_len is longer")


def hear(speech: XttsSpeech, one: Chunk) -> None:
    """Let it listen to a chunk's recordings, and not speak."""
    assert next(speech.speak(ChunkList([one]))) is None


def kept(cache: Path) -> dict[str, Path]:
    """What the cache holds, by key."""
    folder = cache / "latents"
    return {path.stem: path for path in folder.iterdir()} if folder.is_dir() else {}


def test_what_was_heard_is_kept_by_content(made: Made, tmp_path: Path) -> None:
    """Once for each recording and way to listen: under another name, for another text, in another process's time."""
    cache = tmp_path / "cache"
    ana = sounds.save(tmp_path / "ana.wav", sounds.speech(2.0))
    same, rui = tmp_path / "same.wav", sounds.save(tmp_path / "rui.wav", sounds.speech(3.0))
    os.link(ana, same)
    counts = []
    for recordings, settings in (
        ((ana,), {}), ((ana,), {"temperature": 0.5, "speed": 1.3}), ((same,), {}), ((rui,), {}), ((ana, rui), {}),
        ((rui, ana), {}), ((ana,), {"gpt_cond_len": 5}), ((ana,), {"sound_norm_refs": True}),
        ((ana,), {"max_ref_len": 1}), ((ana,), {"gpt_cond_chunk_len": 2}),
    ):  # fmt: skip
        hear(made(), chunk(recordings=recordings, settings=settings))
        counts.append(len(kept(cache)))
    assert counts == [1, 1, 1, 2, 3, 4, 5, 6, 7, 8]


def test_what_is_kept_is_used(made: Made, tmp_path: Path) -> None:
    """Nothing is listened to again: with other latents under that key, the voice is another one."""
    voice = sounds.save(tmp_path / "ana.wav", sounds.speech(2.0))
    one = chunk(recordings=(voice,), settings=GREEDY)
    (first,) = speak(made(), one)
    assert close(speak(made(), one)[0], first)
    (key,) = kept(tmp_path / "cache")
    cache = LatentCache(tmp_path / "cache" / "latents")
    arrays = cache.get(key)
    assert arrays is not None
    cache.put(key, {name: array[:, ::-1].copy() for name, array in arrays.items()})
    assert not close(speak(made(), one)[0], first)
    kept(tmp_path / "cache")[key].write_bytes(b"damaged")
    assert close(speak(made(), one)[0], first)


def test_without_a_cache_it_listens_each_time(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that can't be written is no reason to fail."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("VOICESPOOL_CACHE", str(tmp_path / "file"))
    voice = sounds.save(tmp_path / "ana.wav", sounds.speech(2.0))
    assert speak(made(), chunk("No.", recordings=(voice,)))[0].size


def test_few_voices_are_kept_at_hand(
    speech: XttsSpeech, expected: list[Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those used first go first, and every chunk still has its own."""
    from engines.xtts.net import speech as module

    monkeypatch.setattr(module, "MAX_VOICES", 1)
    for _ in range(2):
        found = speak(speech, *tiny.mixed_chunks())
        assert all(close(one, other) for one, other in zip(found, expected, strict=True))
        assert len(speech._voices) == 1


def test_models_that_listen_alike_share_what_they_heard(
    made: Made, tiny_xtts: Path, model: Any, tmp_path: Path
) -> None:
    """The key follows from the weights that listen; another model's voice is never taken for one's own."""

    def listens(state: dict[str, Any]) -> None:
        state["gpt.conditioning_perceiver.latents"] += 1

    voice = sounds.save(tmp_path / "ana.wav", sounds.speech(2.0))
    one = chunk(recordings=(voice,))
    hear(made(), one)
    hear(made(of=tiny.load(tiny_xtts)), one)
    assert len(kept(tmp_path / "cache")) == 1
    hear(made(of=tiny.load(tiny.changed(tiny_xtts, tmp_path / "other", listens))), one)
    assert len(kept(tmp_path / "cache")) == 2


# --- memory -----------------------------------------------------------------------------------------------------------


class Memory:
    """Memory that may be too small: then whoever asks for a cache of more than some rows gets torch's own error.

    Attributes:
        rows: Most that fit; -1 for no bound.
        refused: How often they did not.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from engines.xtts.net import kv_cache

        self.rows, self.refused, self._zeros = -1, 0, kv_cache._zeros
        monkeypatch.setattr(kv_cache, "_zeros", self)

    def __call__(self, shape: Sequence[int], gpt: Any) -> Any:
        import torch

        if 0 <= self.rows < shape[0]:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._zeros(tuple(shape), gpt)


@pytest.mark.parametrize(("rows", "refused"), [(1, 2), (3, 1)])
def test_with_too_little_memory_there_are_fewer_rows(
    speech: XttsSpeech, expected: list[Samples], monkeypatch: pytest.MonkeyPatch, rows: int, refused: int
) -> None:
    """Batches are halved until they fit, and every chunk sounds as it does with plenty."""
    with_rows(monkeypatch, len(expected))
    memory = Memory(monkeypatch)
    memory.rows = rows
    found = speak(speech, *tiny.mixed_chunks())
    assert memory.refused == refused
    assert all(close(one, other) for one, other in zip(found, expected, strict=True))


def test_memory_that_runs_out_half_way_costs_nothing(
    speech: XttsSpeech, expected: list[Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As waiting chunks come in: what was spoken stays spoken, each chunk comes once, and sounds as it should."""
    import torch

    found: dict[int, Samples] = {}
    refused: list[bool] = []
    pad = torch.nn.utils.rnn.pad_sequence

    def full_once(*given: Any, **more: Any) -> Any:
        if found and not refused:
            refused.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return pad(*given, **more)

    monkeypatch.setattr(torch.nn.utils.rnn, "pad_sequence", full_once)
    with_rows(monkeypatch, 3)
    for one in speech.speak(ChunkList(tiny.mixed_chunks())):
        if one is not None:
            assert one[0] not in found
            assert isinstance(one[1], Audio)
            found[one[0]] = one[1].samples
    assert refused
    assert all(close(found[index], expected[index]) for index in range(len(expected)))


def test_memory_that_runs_out_in_a_stream_loses_nothing(
    speech: XttsSpeech, expected: list[Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: what was taken is rendered again with fewer rows, nothing is taken twice, and then there are as many rows
    as before.
    """
    import torch

    chunks = tiny.mixed_chunks()
    source = Arriving(chunks[:4], chunks[4:], *([one] for one in chunks * 3))
    wanted = expected * 4
    pad, batches, refused = torch.nn.utils.rnn.pad_sequence, list[int](), list[int]()

    def full_twice(prompts: Any, **more: Any) -> Any:
        if len(refused) < 2 and source.returned > 5 * (len(refused) + 1):
            refused.append(len(batches))
            raise RuntimeError("CUDA error: out of memory")
        batches.append(len(source.in_progress) - source.returned)
        return pad(prompts, **more)

    monkeypatch.setattr(torch.nn.utils.rnn, "pad_sequence", full_twice)
    with_rows(monkeypatch, 4)
    found = arrived(speech, source)
    assert len(refused) == 2
    assert sorted(found) == list(range(len(wanted)))
    assert len(source.in_progress) == len(wanted)
    assert all(close(found[number], one) for number, one in enumerate(wanted))
    assert max(batches[refused[-1] + 1 :]) == 4


def test_memory_that_runs_out_for_a_voice_is_waited_for(
    speech: XttsSpeech, expected: list[Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are being rendered are done first; then there is enough."""
    import torch

    voice = sounds.save(tmp_path / "ana.wav", sounds.speech(2.0))
    cloned = chunk(recordings=(voice,), settings=GREEDY)
    compute, beside = speech._model.get_conditioning_latents, list[int]()
    source = Arriving(tiny.mixed_chunks()[:3], [cloned], tiny.mixed_chunks()[3:])

    def if_alone(*given: Any) -> Any:
        beside.append(3 - source.returned)
        if beside[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(*given)

    monkeypatch.setattr(speech._model, "get_conditioning_latents", if_alone)
    found = arrived(speech, source)
    assert beside == [2, 0]
    assert close(found.pop(3), speak(speech, cloned)[0])
    assert all(close(found[number], one) for number, one in zip(sorted(found), expected, strict=True))


def test_memory_too_small_for_one_is_said(speech: XttsSpeech, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second try, in words; and with memory again it speaks again."""
    with_rows(monkeypatch, 2)
    memory = Memory(monkeypatch)
    memory.rows = 0
    with pytest.raises(OutOfMemory, match="not even one") as caught:
        speak(speech, chunk())
    assert caught.value.retryable
    memory.rows = -1
    assert speak(speech, chunk())[0].size


def test_other_errors_are_not_taken_for_it(speech: XttsSpeech, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken kernel is not tried again with fewer rows."""
    import torch

    def broken(*_size: Any, **_more: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        speak(speech, chunk())


@pytest.mark.parametrize("where", ["vocoder", "latents"])
def test_memory_that_runs_out_elsewhere_is_said_too(
    made: Made, tiny_xtts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """In the vocoder, and while it listens: the same kind of error, so that the job goes on where there is more."""
    import torch

    def too_small(*_size: Any, **_more: Any) -> Any:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 GB.")

    speech = made(of=tiny.load(tiny_xtts))
    voice = sounds.save(tmp_path / "ana.wav", sounds.speech(2.0))
    monkeypatch.setattr(torch.nn.functional, "conv2d" if where == "vocoder" else "pad", too_small)
    with pytest.raises(OutOfMemory):
        speak(speech, chunk(recordings=(voice,) if where == "latents" else ()))


def test_rows_follow_from_free_memory(
    made: Made, model: Any, tiny_xtts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the formula lets into half of it, at least one, and no more than is useful."""
    from engines.device import runtime

    def end_soon(state: dict[str, Any]) -> None:
        state["gpt.mel_head.bias"][model.gpt.stop_audio_token] += 5

    speech = made(of=tiny.load(tiny.changed(tiny_xtts, tmp_path / "brief", end_soon)))
    row = row_bytes(model)
    for free, rows in ((0, 1), (row, 1), (4 * row, 2), (20 * row + 1, 10), (10_000 * row, 32)):
        monkeypatch.setattr(runtime, "free_bytes", lambda _device, free=free: free)
        source = Arriving([chunk("No.", seed=seed) for seed in range(rows + 2)])
        assert len(arrived(speech, source)) == rows + 2
        assert max(source.in_progress) + 1 == rows


def test_signs_of_life(speech: XttsSpeech) -> None:
    """At every step there is one, so that a slow machine is not taken for a stalled one."""
    signs: Iterator[Any] = speech.speak(ChunkList(tiny.mixed_chunks()))
    assert sum(sign is None for sign in signs) > tiny.LONGEST
