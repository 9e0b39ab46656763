"""XTTS-v2 in full size, with random weights: the library's codes and sound, and chance that no neighbour changes."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import Chunk, ChunkList
from engines.checkpoints import inspection
from engines.device import allowance
from tests import tiny

if TYPE_CHECKING:
    from engines.xtts.net.gpt import Utterance

pytestmark = pytest.mark.long

log = logging.getLogger(__name__)

NOISE = 1e-4
CHUNKS = 128
WORDS = """
    the harbour was quiet when first boats came in nobody had slept much and coffee cold she counted crates twice wrote
    number down again by noon market full of people who wanted to know what happened during night
"""


@pytest.fixture(autouse=True)
def _all_processors() -> Iterator[None]:
    """Tests of this size have the machine for themselves."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(allowance.processors())
    yield
    torch.set_num_threads(before)


# --- as the library ---------------------------------------------------------------------------------------------------


def said_by_library(checkpoint: Path, scratch: Path, chunks: Sequence[Chunk]) -> list[tuple[list[int], Any]]:
    """Codes and samples of each chunk, by the library's own calls."""
    library = tiny.Library(checkpoint, scratch)
    generate, codes = library.model.gpt.generate, []

    def noted(*arguments: Any, **keywords: Any) -> Any:
        made = generate(*arguments, **keywords)
        codes.append(made[0].tolist())
        return made

    library.model.gpt.generate = noted
    sounds = [library.say(chunk) for chunk in chunks]
    return list(zip(codes, sounds, strict=True))


def said_by_us(model: Any, speakers: Path, chunks: Sequence[Chunk]) -> list[tuple[list[int], NDArray[np.float32]]]:
    """The same of the chunks in one batch, by the engine's."""
    from engines.xtts.net.speech import XttsSpeech

    generate, codes = model.gpt.generate, {}

    def noted(*arguments: Any) -> Any:
        for group in generate(*arguments):
            codes.update({one.key[0]: one.codes.tolist() for one in group})
            yield group

    model.gpt.generate = noted
    sounds: dict[int, Any] = dict(
        one for one in XttsSpeech(model, "cpu", speakers).speak(ChunkList(chunks)) if one is not None
    )
    model.gpt.generate = generate
    return [(codes[number], sounds[number].samples) for number in range(len(chunks))]


def test_codes_and_sound_are_the_librarys(full_xtts: Path, tmp_path: Path) -> None:
    """Greedily, in float32: each of four chunks alone, and all in one batch."""
    assert inspection.inspect(full_xtts).parameters > 450 * 10**6
    chunks = tiny.mixed_chunks(tiny.TEXTS[:4])
    expected = said_by_library(full_xtts, tmp_path / "copy", chunks)
    model, speakers = tiny.load(full_xtts), full_xtts.with_name("speakers_xtts.pth")
    alone = [said_by_us(model, speakers, [chunk])[0] for chunk in chunks]
    together = said_by_us(model, speakers, chunks)
    log.info("codes: %s", [len(codes) for codes, _sound in expected])
    assert len({len(codes) for codes, _sound in expected}) > 2
    for ours in (alone, together):
        for (codes, sound), (its_codes, its_sound) in zip(ours, expected, strict=True):
            assert codes == its_codes
            assert sound.shape == its_sound.shape
            log.info("largest difference: %.1e", np.abs(sound - its_sound).max())
            assert np.abs(sound - its_sound).max() <= NOISE


# --- chance -----------------------------------------------------------------------------------------------------------


def utterances(model: Any) -> list[Utterance]:
    """Many, of all lengths, with two voices, sampled as by default."""
    import torch

    from engines.torch.sampling import SamplingParams
    from engines.xtts.net.gpt import Utterance

    chance, generator = random.Random(11), torch.Generator().manual_seed(11)
    voices = [torch.randn(1, 32, model.gpt.model_dim, generator=generator) for _ in range(2)]
    return [
        Utterance(
            (number, 0), model.tokenize(" ".join(chance.choices(WORDS.split(), k=chance.randint(1, 24))), "en"),
            voices[number % 2], SamplingParams(), seed=number,
        )
        for number in range(CHUNKS)
    ]  # fmt: skip


def decoded(model: Any, some: Sequence[Utterance], rows: int) -> Mapping[int, list[int]]:
    return {one.key[0]: one.codes.tolist() for group in model.gpt.generate(tiny.given(some), rows) for one in group}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_chunk_and_seed_give_the_same_codes_in_any_company(full_xtts: Path, precision: str) -> None:
    """In at least 99 of 100 chunks: the noise of calculating tips one that stands on the edge of its chance."""
    import torch

    if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16, and would take an hour for it")
    model = tiny.load(full_xtts, precision)
    chunks = utterances(model)
    shuffled = random.Random(5).sample(chunks, len(chunks))
    first = decoded(model, chunks, 32)
    others = [decoded(model, shuffled, 32), decoded(model, shuffled[:64], 7)]
    others += [decoded(model, [one], 1) for one in chunks[:24]]
    pairs = [(codes, first[number]) for other in others for number, codes in other.items()]
    flipped = sum(one != other for one, other in pairs)
    log.info("%s: %d of %d chunks differ", precision, flipped, len(pairs))
    assert len({tuple(codes) for codes in first.values()}) == CHUNKS
    assert flipped <= 0.01 * len(pairs)
    reseeded = [replace(one, seed=one.seed + CHUNKS) for one in chunks[:8]]
    assert all(codes != first[number] for number, codes in decoded(model, reseeded, 8).items())
