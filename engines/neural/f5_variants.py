"""v0 or v1, measured: under which flags does a model foretell a recording from its transcript?

A model was trained to do just that, under one of them. The loss of the training is lower under those; where it is not
clearly lower, nothing is decided.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from engines import cache
from engines.f5_variant import V0, V1, Flags
from engines.neural.f5_backbone import Backbone
from engines.neural.f5_flow import losses

CLEAR = 3.0
"""So many standard errors must lie between the two: by chance alone that happens once in a hundred times."""
LEAST = 0.002
"""And the higher loss must be so much higher, as a share: less than that means that the flags change nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The flow-matching losses under both.

    Attributes:
        v0, v1: Mean squared errors.
        certainty: How many standard errors lie between them, positive where v1 is lower.
    """

    v0: float
    v1: float
    certainty: float

    @property
    def flags(self) -> Flags | None:
        """Those of the lower one; None when it is not clearly lower."""
        if abs(self.certainty) < CLEAR or abs(self.v0 - self.v1) < LEAST * max(self.v0, self.v1):
            return None
        return V1 if self.certainty > 0 else V0

    def words(self) -> str:
        """For a manifest or an error: a clause."""
        return f"the loss of its recording is {self.v0:.4f} as v0 and {self.v1:.4f} as v1"


def measure(backbone: Backbone, mel: Tensor, symbols: Tensor) -> Measured:
    """Measure with one recording.

    Args:
        mel: float32 [frames, 100].
        symbols: Of its transcript, int64 [t].
    """
    as_v0, as_v1 = (losses(backbone, mel, symbols, flags) for flags in (V0, V1))
    return compared(as_v0, as_v1)


def compared(as_v0: Sequence[float], as_v1: Sequence[float]) -> Measured:
    """Losses in pairs: the same time and noise under both."""
    gains = [math.log(v0 / v1) for v0, v1 in zip(as_v0, as_v1, strict=True)]
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    certainty = statistics.fmean(gains) / error if error else 0.0
    return Measured(statistics.fmean(as_v0), statistics.fmean(as_v1), certainty)


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
