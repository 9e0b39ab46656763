"""v0 or v1, measured: under which flags does a model foretell a recording from its transcript?

A model was trained to do just that, under one of them. The loss of the training is lower under those; where it is not
clearly lower, or where the model foretells too badly to have learnt what speech is, nothing is decided.
`benchmarks/f5_variants.py` shows on models trained under known flags how often that is right.
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
from engines.f5.net.flow import PROBES, losses
from files import cache

CHANCE = 0.01
"""What is decided must be this unlikely to come about where neither flags are better."""
LEAST = 0.03
"""And the higher loss must be so much higher, as a share. A model that has hardly begun to learn was seen to do
better under the wrong flags by 0.02, on recordings longer than any that it had learnt from.
"""
_PIECES = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """The flow-matching losses under both.

    Attributes:
        v0, v1: Mean squared errors.
        guess: That of a guess which knows nothing of speech; what is not below it tells nothing.
        chance: That they lie so far apart where neither flags are better, 0 … 1.
    """

    v0: float
    v1: float
    guess: float
    chance: float

    @property
    def foretells(self) -> bool:
        """Whether the model does better than the guess."""
        return min(self.v0, self.v1) < self.guess

    @property
    def flags(self) -> Flags | None:
        """Those of the lower one; None when nothing is decided."""
        lower, higher = sorted((self.v0, self.v1))
        if self.foretells and 1 - lower / higher >= LEAST and self.chance <= CHANCE:
            return V0 if self.v0 < self.v1 else V1
        return None

    def words(self) -> str:
        """For a manifest or an error: a clause."""
        return f"the loss of its recording is {self.v0:.4f} as v0 and {self.v1:.4f} as v1"

    def doubt(self) -> str:
        """Why nothing is decided: what follows the words, from its comma."""
        if self.foretells:
            return ", which is too close"
        return f", no better than a guess that knows nothing of speech ({self.guess:.4f})"


@torch.inference_mode()
def measure(backbone: Backbone, mel: Tensor, symbols: Tensor) -> Generator[None, None, Measured]:
    """Measure with one recording.

    Args:
        mel: float32 [frames, 100].
        symbols: Of its transcript, int64 [t].

    Yields:
        None after each evaluation: a sign of life.
    """
    as_v0 = yield from losses(backbone, mel, symbols, V0)
    as_v1 = yield from losses(backbone, mel, symbols, V1)
    return Measured(float(as_v0.mean()), float(as_v1.mean()), guessed(mel), chance(as_v0, as_v1))


def chance(as_v0: Tensor, as_v1: Tensor) -> float:
    """How likely two losses are to lie so far apart where neither is lower: Fisher's randomisation test.

    The recording falls into ten pieces, which differ in what is said and in the noise. If neither flags were better,
    each piece might as well have spoken for the other: of all 1,024 ways to say which, so many speak as clearly.

    Args:
        as_v0, as_v1: As `losses` returns them, [probes, hidden frames].
    """
    pieces = [torch.stack([piece.sum() for piece in one.tensor_split(_PIECES, 1)]) for one in (as_v0, as_v1)]
    gains = (pieces[0] / pieces[1]).double().log()
    sides = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * _PIECES)
    return float(((sides @ gains).abs() >= abs(float(gains.sum())) * (1 - 1e-9)).double().mean())


def guessed(mel: Tensor) -> float:
    """The loss of the best guess that knows nothing of speech: less than that, a model that has learnt any can do.

    It takes each frame for a draw from a normal distribution and is told its mean and covariance, those of this very
    recording. What it then foretells of the flow is linear in the noisy frame, and along an axis of the variance v its
    squared error is v / (t² v + (1 - t)²) (linear minimum mean square error, Wiener's filter).

    Args:
        mel: float32 [frames, n_mels].
    """
    variances = torch.linalg.eigvalsh(mel.t().double().cov()).clamp(min=0)
    errors = [variances / (time**2 * variances + (1 - time) ** 2) for time in PROBES]
    return float(torch.stack(errors).mean())


def remembered(sha256: str) -> Measured | None:
    """What was measured for this checkpoint before, and decided something."""
    folder = cache.folder("variants")
    try:
        return None if folder is None else Measured(**json.loads((folder / f"{sha256}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def remember(sha256: str, measured: Measured) -> None:
    """For the next time; trouble with the disk stops nobody."""
    folder = cache.folder("variants")
    if folder is None or measured.flags is None:
        return
    scratch: Path = folder / f".{sha256}"
    try:
        scratch.write_text(json.dumps(asdict(measured)))
        scratch.replace(folder / f"{sha256}.json")
    except OSError:
        return
