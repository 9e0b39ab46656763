"""Each row's next token comes from the library's distribution, by its own settings and its own chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from torch import Tensor

    from engines.torch.sampling import SamplingParams

VOCABULARY = 24
CHANCES = 16
CLOSE = 1e-4  # to the edge of a token's share, or of what top-p keeps: there rounding decides

settings_of_a_row = st.fixed_dictionaries({
    "temperature": st.floats(0.05, 2.0),
    "top_k": st.integers(0, VOCABULARY + 2),
    "top_p": st.floats(0.05, 1.0),
    "repetition_penalty": st.floats(0.1, 20.0),
})  # fmt: skip
rows_of_settings = st.lists(settings_of_a_row, min_size=1, max_size=4)


def situation(rows: int, seed: int, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits [rows, VOCABULARY] of any sign, and which tokens were seen."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, VOCABULARY, generator=generator) * spread
    return logits, torch.rand(rows, VOCABULARY, generator=generator) < 0.4


def librarys(logits: Tensor, seen: Tensor, row: dict[str, Any]) -> Tensor:
    """Scores [VOCABULARY] after Hugging Face's processors, in the order in which its generation calls them."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(row["repetition_penalty"])])
    chain.append(TemperatureLogitsWarper(row["temperature"]))
    if row["top_k"]:
        chain.append(TopKLogitsWarper(row["top_k"]))
    if row["top_p"] < 1.0:
        chain.append(TopPLogitsWarper(row["top_p"]))
    tokens: Any = seen.nonzero().T
    scores: Tensor = chain(tokens, logits.unsqueeze(0))
    return scores[0]


def is_decided_by_rounding(logits: Tensor, seen: Tensor, row: dict[str, Any]) -> bool:
    """Whether some token lies on the edge of what top-p keeps."""
    before = librarys(logits, seen, {**row, "top_p": 1.0}).softmax(0).sort().values
    return bool((before.cumsum(0) - (1 - row["top_p"])).abs().min() < CLOSE / 10) and row["top_p"] < 1.0


def sampler(rows: Sequence[dict[str, Any]], **more: Any) -> Any:
    import torch

    from engines.torch.sampling import Sampler, SamplingParams

    made = Sampler(len(rows), VOCABULARY, torch.device("cpu"))
    made.set_rows(range(len(rows)), [SamplingParams(**row, **more) for row in rows])
    return made


@settings(max_examples=150)
@given(rows_of_settings, st.integers(0, 2**32))
def test_every_row_is_drawn_from_the_librarys_distribution(rows: list[dict[str, Any]], seed: int) -> None:
    """A token's share of the numbers between 0 and 1 is its probability; what is filtered out never comes."""
    import torch

    logits, seen = situation(len(rows), seed)
    assume(not any(is_decided_by_rounding(*one) for one in zip(logits, seen, rows, strict=True)))
    here = sampler(rows)
    numbers = torch.arange(len(rows))
    probabilities = torch.stack([librarys(*one) for one in zip(logits, seen, rows, strict=True)]).softmax(1)
    likeliest_first, order = probabilities.sort(1, descending=True)
    ends = likeliest_first.double().cumsum(1)
    for chance in (*torch.linspace(0, 1, CHANCES + 1)[:-1].tolist(), 1 - 2**-24):
        picked = here.sample(numbers, logits, seen, torch.full((len(rows),), chance))
        for row in range(len(rows)):
            assert probabilities[row, picked[row]] > 0
            if (ends[row] - chance).abs().min() > CLOSE:
                assert picked[row] == order[row, (ends[row] <= chance).sum()]


@settings(max_examples=50)
@given(rows_of_settings, st.integers(0, 2**32))
def test_greedy_rows_take_the_librarys_likeliest(rows: list[dict[str, Any]], seed: int) -> None:
    """Whatever their chance; the penalty alone counts, as in the library."""
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, seen = situation(len(rows), seed)
    picked = sampler(rows, do_sample=False).sample(torch.arange(len(rows)), logits, seen, torch.rand(len(rows)))
    for number, row in enumerate(rows):
        penalty = RepetitionPenaltyLogitsProcessor(row["repetition_penalty"])
        assert picked[number] == penalty(seen[number].nonzero().T, logits[number].unsqueeze(0)).argmax()


@pytest.fixture
def mixed() -> list[SamplingParams]:
    """Settings that choose differently for nearly any logits."""
    from engines.torch.sampling import SamplingParams

    return [
        SamplingParams(do_sample=False),
        SamplingParams(2.0, 0, 1.0, 1.0),
        SamplingParams(0.5, 3, 0.9, 2.0),
        SamplingParams(1.0, 1, 1.0, 20.0),
    ]


def test_neighbours_do_not_matter(mixed: list[SamplingParams]) -> None:
    """A row gets the same tokens alone, among others, in another place, and after it has moved."""
    import torch

    from engines.torch.sampling import Sampler

    cpu, rows = torch.device("cpu"), torch.arange(4)
    together, moved = Sampler(4, VOCABULARY, cpu), Sampler(5, VOCABULARY, cpu)
    together.set_rows(range(4), mixed)
    moved.set_rows(range(1, 5), mixed)
    for row in range(4):
        moved.copy_row(row + 1, row)
    for seed in range(50):
        logits, seen = situation(4, seed)
        chance = torch.rand(4, generator=torch.Generator().manual_seed(seed))
        picked = together.sample(rows, logits, seen, chance)
        assert torch.equal(moved.sample(rows, logits, seen, chance), picked)
        for row, setting in enumerate(mixed):
            alone = Sampler(1, VOCABULARY, cpu)
            alone.set_rows([0], [setting])
            one = slice(row, row + 1)
            assert alone.sample(rows[:1], logits[one], seen[one], chance[one]) == picked[row]


def test_a_seat_is_taken_over_whole(mixed: list[SamplingParams]) -> None:
    """Nothing of the chunk that sat in the row before is left."""
    import torch

    from engines.torch.sampling import Sampler

    fresh, used = (Sampler(1, VOCABULARY, torch.device("cpu")) for _ in range(2))
    for first in mixed:
        for second in mixed:
            used.set_rows([0], [first])
            used.set_rows([0], [second])
            fresh.set_rows([0], [second])
            for seed in range(5):
                logits, seen = situation(1, seed)
                chance = torch.tensor([0.6])
                row = torch.zeros(1, dtype=torch.long)
                assert used.sample(row, logits, seen, chance) == fresh.sample(row, logits, seen, chance)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1])
def test_chance_follows_from_the_seed(seed: int) -> None:
    """The same numbers each time, however many are wanted; other ones for another seed; nobody else's are touched."""
    import torch

    from engines.torch.sampling import uniforms

    before = torch.random.get_rng_state()
    numbers = uniforms(seed, 700)
    assert torch.equal(numbers, uniforms(seed, 700))
    assert torch.equal(numbers[:20], uniforms(seed, 20))
    assert not torch.equal(numbers, uniforms((seed + 1) % 2**63, 700))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert 0.45 < numbers.mean() < 0.55
    assert torch.equal(torch.random.get_rng_state(), before)


def test_settings_become_sampling() -> None:
    """By the library's names, from numbers as JSON has them."""
    from engines.torch.sampling import SamplingParams

    given_settings = {"temperature": 1, "top_k": 7, "top_p": 0.5, "repetition_penalty": 2.5, "do_sample": False}
    assert SamplingParams.from_settings(given_settings) == SamplingParams(1.0, 7, 0.5, 2.5, do_sample=False)
