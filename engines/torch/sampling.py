"""Choosing the next token for a whole batch at once, each row by its own settings and its own chance.

The order is that of Hugging Face's generation (penalty, temperature, top-k, top-p), so that a row's distribution is
the library's. Chance is one number in [0, 1) for each row and step, drawn ahead from the row's own generator and
turned into a token by inverting the distribution: no row's draw depends on its neighbours, on the device, or on how
the batch is made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one chunk's tokens are chosen.

    Attributes:
        temperature: Above 0.
        top_k: 0 keeps all.
        top_p: Above 0, up to 1, which keeps all.
        repetition_penalty: Above 0; 1 changes nothing (arXiv 1909.05858).
        sample: False takes the likeliest token.
    """

    temperature: float = 0.75
    top_k: int = 50
    top_p: float = 0.85
    repetition_penalty: float = 5.0
    sample: bool = True

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> Sampling:
        """From an engine's settings, all of them given."""
        return cls(
            temperature=float(str(settings["temperature"])),
            top_k=int(str(settings["top_k"])),
            top_p=float(str(settings["top_p"])),
            repetition_penalty=float(str(settings["repetition_penalty"])),
            sample=bool(settings["do_sample"]),
        )


def uniforms(seed: int, count: int) -> Tensor:
    """A chunk's chance: float32 [count] in [0, 1), the same on every device."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


class Sampler:
    """Settings of all rows as tensors, so that one call serves rows that differ.

    Args:
        rows: Most rows at a time.
        vocabulary: Tokens to choose from.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._numbers = torch.ones(rows, 4, device=device)
        self._greedy = torch.zeros(rows, dtype=torch.bool, device=device)

    def set(self, rows: Sequence[int], settings: Sequence[Sampling]) -> None:
        """Rows get the settings of their chunks."""
        for row, setting in zip(rows, settings, strict=True):
            k = setting.top_k if 0 < setting.top_k < self._vocabulary else self._vocabulary
            numbers = [setting.repetition_penalty, setting.temperature, float(k), setting.top_p]
            self._numbers[row] = torch.tensor(numbers)
            self._greedy[row] = not setting.sample

    def move(self, source: int, target: int) -> None:
        """A row's settings go to another row."""
        self._numbers[target] = self._numbers[source]
        self._greedy[target] = self._greedy[source]

    def pick(self, rows: Tensor, logits: Tensor, seen: Tensor, chance: Tensor) -> Tensor:
        """The next token of each row.

        Args:
            rows: int64 [n], which rows these are.
            logits: float32 [n, vocabulary].
            seen: bool [n, vocabulary], tokens that the penalty is for.
            chance: float32 [n] in [0, 1).

        Returns:
            int64 [n].
        """
        penalty, temperature, k, p = (column.unsqueeze(1) for column in self._numbers[rows].unbind(1))
        penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
        scores = torch.where(seen, penalised, logits)
        probabilities, order = filtered(scores / temperature, k, p)
        reached = probabilities.cumsum(1)
        drawn = (reached <= chance.unsqueeze(1) * reached[:, -1:]).sum(1, keepdim=True)
        sampled = order.gather(1, drawn.clamp_(max=order.shape[1] - 1)).squeeze(1)
        return torch.where(self._greedy[rows], scores.argmax(1), sampled)


def filtered(scores: Tensor, k: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Keep each row's k likeliest tokens, and of those the likeliest that together reach the probability p.

    Args:
        scores: float32 [n, vocabulary].
        k: float32 [n, 1], 1 … vocabulary.
        p: float32 [n, 1], above 0 … 1.

    Returns:
        Probabilities from the likeliest down, float32 [n, vocabulary], 0 for what is not kept; and their tokens.
    """
    scores, order = torch.sort(scores, dim=1, descending=True, stable=True)
    rank = torch.arange(scores.shape[1], device=scores.device)
    probabilities = scores.masked_fill(rank >= k, -torch.inf).softmax(1)
    below = 1 - (probabilities.cumsum(1) - probabilities)  # of a token and all that are less likely
    beyond = (below <= 1 - p) & (rank > 0)
    return probabilities.masked_fill(beyond, 0), order
