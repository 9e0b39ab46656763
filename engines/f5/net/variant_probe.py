"""v0 or v1 by measurement: under which flags does a model predict a recording better from its transcript?

A model was trained to do this under one pair of flags, and its training loss is lower under them. No decision is made
if the losses are too close, or if the model predicts the recording no better than an untrained baseline.
`benchmarks/f5_variants.py` measures how often the decision is right, on models trained under known flags.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from engines.checkpoints.f5_variant import V0, V1, Flags
from engines.f5.net.backbone import Backbone
from engines.f5.net.flow import LOSS_TIMES, losses
from files import cache

MAX_CHANCE = 0.01
"""Highest p-value for a decision."""
MIN_DIFFERENCE = 0.03
"""Lowest relative difference of the losses for a decision. A model at the very beginning of its training was better
under the wrong flags by 0.02, on recordings longer than any that it was trained with.
"""
_PIECES = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """Flow-matching losses of one recording. The names are keys of cached files and of the manifest.

    Attributes:
        v0: Mean squared error under the flags of v0.
        v1: Mean squared error under the flags of v1.
        guess: Loss of the untrained baseline on the same recording.
        chance: p-value of the difference, 0 … 1: its probability if both variants were equally good.
    """

    v0: float
    v1: float
    guess: float
    chance: float

    @property
    def beats_baseline(self) -> bool:
        return min(self.v0, self.v1) < self.guess

    @property
    def flags(self) -> Flags | None:
        """Flags with the lower loss; None for no decision, also if a loss is not a number."""
        lower, higher = sorted((self.v0, self.v1))
        if self.beats_baseline and 1 - lower / higher >= MIN_DIFFERENCE and self.chance <= MAX_CHANCE:
            return V0 if self.v0 < self.v1 else V1
        return None

    def words(self) -> str:
        """A clause for the manifest or an error."""
        return f"the loss on the recording is {self.v0:.4f} as v0 and {self.v1:.4f} as v1"

    def doubt(self) -> str:
        """Why no decision is made: continues `words()` with a comma."""
        if self.beats_baseline:
            return ", which is too close"
        return f", no better than an untrained baseline ({self.guess:.4f})"


@torch.inference_mode()
def measure(backbone: Backbone, mel: Tensor, text: Tensor) -> Generator[None, None, Measured]:
    """Measure both variants with one recording.

    Args:
        backbone: The network.
        mel: Log mel spectrogram of the recording, float32 (frames, 100).
        text: Token ids of its transcript, int64 (text_len,).

    Yields:
        None after each evaluation, as a sign of life.
    """
    as_v0 = yield from losses(backbone, mel, text, V0)
    as_v1 = yield from losses(backbone, mel, text, V1)
    return Measured(float(as_v0.mean()), float(as_v1.mean()), baseline_loss(mel), p_value(as_v0, as_v1))


def p_value(as_v0: Tensor, as_v1: Tensor) -> float:
    """Two-sided p-value of the difference of two losses, by Fisher's randomisation test.

    The recording is divided into ten pieces, which differ in text and noise. If neither variant were better, the sign
    of each piece's log ratio would be arbitrary. The p-value is the share of all 1,024 sign patterns whose sum is at
    least as far from zero as the measured one.

    Args:
        as_v0, as_v1: As `losses` returns them, (times, hidden frames).
    """
    # (times, hidden frames) -> (10,): sum of each piece
    v0, v1 = (torch.stack([piece.sum() for piece in loss.tensor_split(_PIECES, 1)]) for loss in (as_v0, as_v1))
    log_ratios = (v0 / v1).double().log()  # (10,)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * _PIECES)  # (1024, 10)
    # The factor keeps the measured pattern itself in the count, whatever its rounding.
    return float(((signs @ log_ratios).abs() >= abs(float(log_ratios.sum())) * (1 - 1e-9)).double().mean())


def baseline_loss(mel: Tensor) -> float:
    """Loss of the best predictor that knows nothing of speech; any model with some training is better.

    It takes the frames for draws from a normal distribution with the mean and covariance of this recording. Its
    prediction of the flow is then linear in the noisy frame, and along a principal axis of variance v its squared error
    at time t is v / (t² v + (1 - t)²) (linear minimum mean square error estimator, Wiener filter).

    Args:
        mel: float32 (frames, n_mels).
    """
    variances = torch.linalg.eigvalsh(mel.t().double().cov()).clamp(min=0)  # (n_mels,)
    errors = [variances / (t**2 * variances + (1 - t) ** 2) for t in LOSS_TIMES]
    return float(torch.stack(errors).mean())  # of (times, n_mels)


def cached(sha256: str) -> Measured | None:
    """An earlier decision for this checkpoint; None if there is none, or the cache can't be read."""
    folder = cache.folder("variants")
    try:
        return None if folder is None else Measured(**json.loads((folder / f"{sha256}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def keep(sha256: str, measured: Measured) -> None:
    """Cache a decision; without a writable cache it is measured again the next time."""
    folder = cache.folder("variants")
    if folder is None or measured.flags is None:
        return
    scratch: Path = folder / f".{sha256}"
    try:
        scratch.write_text(json.dumps(asdict(measured)))
        scratch.replace(folder / f"{sha256}.json")
    except OSError:
        return
