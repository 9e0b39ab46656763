"""Sampling of the next token for a batch, each row with its own settings and its own seed.

The logits pass through the processors of Hugging Face's `generate` in its order: repetition penalty (Keskar et al.
2019, arXiv 1909.05858), temperature, top-k (Fan et al. 2018, arXiv 1805.04833), top-p or nucleus sampling (Holtzman et
al. 2020, arXiv 1904.09751). `generate` then calls `torch.multinomial`, whose draw depends on the device and on the
other rows. Here a token is drawn by inverse transform sampling: each row has one uniform number per step, drawn in
advance from the row's own seed, and the cumulative distribution turns it into a token.

Shapes: batch is the number of rows in a call, vocab the size of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling settings of one sequence, by the names of `transformers.GenerationConfig`.

    Attributes:
        temperature: Divides the logits; above 0.
        top_k: Number of most probable tokens to sample from; 0 samples from all.
        top_p: Nucleus sampling: sample from the smallest set of tokens with a total probability of at least top_p;
            above 0, up to 1, which keeps all tokens.
        repetition_penalty: For tokens that occurred before: divides their positive logits and multiplies their
            negative ones; above 0; 1 is no penalty.
        do_sample: False is greedy decoding: the most probable token after the penalty.
    """

    temperature: float = 0.75
    top_k: int = 50
    top_p: float = 0.85
    repetition_penalty: float = 5.0
    do_sample: bool = True

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> SamplingParams:
        """Take the fields out of an engine's settings, which must have all of them.

        Raises:
            KeyError: a setting is missing.
        """
        return cls(
            temperature=float(str(settings["temperature"])),
            top_k=int(str(settings["top_k"])),
            top_p=float(str(settings["top_p"])),
            repetition_penalty=float(str(settings["repetition_penalty"])),
            do_sample=bool(settings["do_sample"]),
        )


def uniforms(seed: int, count: int) -> Tensor:
    """Draw the uniform numbers of one sequence, on the CPU so that they are the same for every device.

    Returns:
        float32 [count] in [0, 1). Fewer numbers of the same seed are a prefix of more.
    """
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


class Sampler:
    """Samples a token for each row of a batch; the settings of all rows are tensors, so one call serves all rows.

    Args:
        rows: The largest number of rows.
        vocab_size: Number of tokens to choose from.
        device: Of the logits.
    """

    def __init__(self, rows: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        # (rows, 4): repetition penalty, temperature, top_k, top_p
        self._params = torch.ones(rows, 4, device=device)
        self._is_greedy = torch.zeros(rows, dtype=torch.bool, device=device)

    def set_rows(self, rows: Sequence[int], params: Sequence[SamplingParams]) -> None:
        """Set the sampling settings of rows."""
        for row, of_row in zip(rows, params, strict=True):
            # Keeping the whole vocabulary is the same as no top-k, and needs no branch in `sample`.
            top_k = of_row.top_k if 0 < of_row.top_k < self._vocab_size else self._vocab_size
            values = [of_row.repetition_penalty, of_row.temperature, float(top_k), of_row.top_p]
            self._params[row] = torch.tensor(values)
            self._is_greedy[row] = not of_row.do_sample

    def copy_row(self, source: int, target: int) -> None:
        """Copy the settings of a row to another row."""
        self._params[target] = self._params[source]
        self._is_greedy[target] = self._is_greedy[source]

    def sample(self, rows: Tensor, logits: Tensor, seen: Tensor, uniform: Tensor) -> Tensor:
        """Sample the next token of each row.

        Same distribution as `RepetitionPenaltyLogitsProcessor`, `TemperatureLogitsWarper`, `TopKLogitsWarper` and
        `TopPLogitsWarper` of transformers in this order, checked in tests/unit/engines/torch/test_sampling.py.

        Args:
            rows: int64 [batch], the numbers of the rows.
            logits: float32 [batch, vocab].
            seen: bool [batch, vocab], tokens that the repetition penalty applies to.
            uniform: float32 [batch] in [0, 1), from `uniforms`.

        Returns:
            Tokens, int64 [batch].
        """
        # (batch, 4) -> 4 x (batch, 1)
        penalty, temperature, top_k, top_p = (column.unsqueeze(1) for column in self._params[rows].unbind(1))
        penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
        scores = torch.where(seen, penalised, logits)
        probs, tokens = top_k_top_p(scores / temperature, top_k, top_p)
        cdf = probs.cumsum(1)  # (batch, vocab)
        # The uniform number is scaled by the total, so the filtered probabilities need no renormalisation.
        drawn = (cdf <= uniform.unsqueeze(1) * cdf[:, -1:]).sum(1, keepdim=True)  # (batch, 1), an index into `tokens`
        # Rounding can put the scaled number at the total itself, one past the last token.
        sampled = tokens.gather(1, drawn.clamp_(max=tokens.shape[1] - 1)).squeeze(1)  # (batch,)
        return torch.where(self._is_greedy[rows], scores.argmax(1), sampled)


def top_k_top_p(scores: Tensor, top_k: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """Filter by top-k and then by top-p, which may differ from row to row.

    Args:
        scores: float32 [batch, vocab], logits after the temperature.
        top_k: float32 [batch, 1], 1 … vocab.
        top_p: float32 [batch, 1], above 0, up to 1.

    Returns:
        Probabilities in descending order, float32 [batch, vocab], 0 for tokens that are filtered out, not
        renormalised after top-p; and the tokens in the same order, int64 [batch, vocab].
    """
    # A stable sort: tokens of equal probability keep their order on every device.
    scores, tokens = torch.sort(scores, dim=1, descending=True, stable=True)
    rank = torch.arange(scores.shape[1], device=scores.device)
    probs = scores.masked_fill(rank >= top_k, -torch.inf).softmax(1)
    # Total probability of each token and all less probable ones: the cumulative sum that TopPLogitsWarper takes in
    # ascending order and compares with 1 - top_p.
    tail = 1 - (probs.cumsum(1) - probs)
    is_outside = (tail <= 1 - top_p) & (rank > 0)  # the most probable token always stays
    return probs.masked_fill(is_outside, 0), tokens
