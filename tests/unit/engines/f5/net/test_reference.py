"""A recording and its transcript are cut together, in the same place, or not at all."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.errors import RequestRefused
from engines.f5.net import reference
from engines.f5.net.reference import MAX_S, fit

RATE_HZ = 24_000
BEGIN_S = 0.1  # of silence that is cut off at the beginning
PHRASES = (
    "The harbour was quiet,", "when the first boats came in.", "Nobody had slept much,", "and the coffee was cold.",
    "She counted the crates twice,", "wrote the number down,", "and counted them again.", "Rain.",
    "By noon the market was full of people;", "they wanted to know what had happened.", "It was not the kind of story",
    "that one tells to strangers!", "The old man said:", "lights on the water, far out,", "where no ship should be.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spoken:
    """What somebody said: samples, all of the text, and (end of a phrase's sound in seconds, its end in the text)."""

    samples: NDArray[np.float32]
    text: str
    ends: tuple[tuple[float, int], ...]


def spoken(seed: int, length_s: float, unsteadiness: float = 0.08, pause_s: float = 0.35) -> Spoken:
    """Phrases in turn, each as long as its letters and a varying speed make it, with pauses between them."""
    chance, noise = random.Random(seed), np.random.default_rng(seed)
    parts: list[NDArray[np.float64]] = [np.zeros(RATE_HZ // 5)]
    text, ends = "", []
    while sum(map(len, parts)) / RATE_HZ < length_s:
        phrase = chance.choice(PHRASES)
        letters = sum(map(str.isalpha, phrase))
        seconds = letters * 0.065 * chance.gauss(1.0, unsteadiness)
        time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
        parts.append(0.2 * np.sin(2 * np.pi * 150 * time_s) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s)))
        text = f"{text} {phrase}".strip()
        ends.append((sum(map(len, parts)) / RATE_HZ, len(text)))
        parts.append(np.zeros(round(pause_s * chance.uniform(0.7, 1.5) * RATE_HZ)))
    sound = np.concatenate(parts)
    return Spoken((sound + 1e-4 * noise.standard_normal(sound.size)).astype(np.float32), text, tuple(ends))


def test_what_is_short_enough_stays_as_it_is() -> None:
    """Recording and transcript, but for silence at the ends."""
    said = spoken(1, 8.0)
    silence = np.zeros(3 * RATE_HZ, np.float32)
    found = fit(np.concatenate([silence, said.samples, silence, silence]), RATE_HZ, said.text)
    assert abs(found.samples.size - said.samples.size) < 0.7 * RATE_HZ
    assert (found.text, found.cut_from_s) == (said.text, None)


def test_what_is_cut_is_cut_in_the_same_place() -> None:
    """Whoever speaks, however unsteadily: the text that is left is exactly what is said in the sound that is left."""
    cut = 0
    for seed in range(120):
        said = spoken(seed, 13.0 + seed % 12, unsteadiness=0.04 + 0.02 * (seed % 4))
        try:
            found = fit(said.samples, RATE_HZ, said.text)
        except RequestRefused:
            continue
        cut += 1
        length_s = found.samples.size / RATE_HZ
        assert reference.MIN_S <= length_s <= MAX_S
        ((_, place),) = [(end_s, place) for end_s, place in said.ends if abs(end_s - BEGIN_S - length_s) < 0.25]
        assert found.text == said.text[:place]
        assert found.cut_from_s is not None
        assert abs(found.cut_from_s - said.samples.size / RATE_HZ) < 0.7
    assert cut > 80


def test_what_can_be_taken_for_something_else_is_refused() -> None:
    """A transcript without marks, and a sound without pauses: with what to do."""
    said = spoken(3, 20.0)
    without_marks = "".join(character for character in said.text if character.isalpha() or character == " ")
    for samples, text in ((said.samples, without_marks), (np.tile(said.samples[9000:12000], 120), said.text)):
        with pytest.raises(RequestRefused, match="not certain") as refused:
            fit(samples, RATE_HZ, text)
        assert "Cut the recording" in refused.value.hint


def test_a_transcript_of_something_else_is_not_cut_at_any_odd_place() -> None:
    """Marks that lie nowhere near a pause are no marks to cut at."""
    said = spoken(5, 20.0)
    with pytest.raises(RequestRefused):
        fit(said.samples, RATE_HZ, "One, two, " + "and then he went on and on without a stop " * 8)
