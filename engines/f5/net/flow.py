"""From noise to mels along the flow that F5-TTS and E2-TTS have learnt (flow matching, arXiv 2210.02747).

The same numbers as the library's `CFM.sample`: its steps, its guidance, its noise for a seed, and for each request a
random generator of its own.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from engines.checkpoints.f5_variant import Flags
from engines.f5.net.backbone import Backbone
from engines.f5.net.batch import Given

# Empirically pruned steps (arXiv 2505.19931), in 32nds; other numbers of steps are evenly spread.
_PRUNED = MappingProxyType({
    5: (0, 2, 4, 8, 16, 32),
    6: (0, 2, 4, 6, 8, 16, 32),
    7: (0, 2, 4, 6, 8, 16, 24, 32),
    10: (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32),
    12: (0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32),
})  # fmt: skip
_NO_GUIDANCE = 1e-5  # what is less is none


@dataclass(frozen=True, slots=True)
class Course:
    """How to go from noise to sound.

    Attributes:
        steps: Evaluations of the network, 1 or more (`nfe_step`).
        guidance: How far to go beyond what the text and the recording ask for (`cfg_strength`); 0 saves half the work.
        sway: Negative for more steps at the beginning, -1 … 1 (`sway_sampling_coef`); None for none.
    """

    steps: int = 32
    guidance: float = 2.0
    sway: float | None = -1.0

    @property
    def is_guided(self) -> bool:
        return self.guidance >= _NO_GUIDANCE

    def times(self) -> Tensor:
        """From 0 to 1, float32 [steps + 1]."""
        pruned = _PRUNED.get(self.steps)
        even = torch.linspace(0, 1, self.steps + 1)
        times = even if pruned is None else torch.tensor(pruned, dtype=torch.float32) / 32
        return times if self.sway is None else times + self.sway * (torch.cos(math.pi / 2 * times) - 1 + times)


def noise(seed: int, frames: int, n_mels: int) -> Tensor:
    """Where a request starts, float32 [frames, n_mels]: the same on every device."""
    return torch.randn(frames, n_mels, generator=torch.Generator().manual_seed(seed))


def sample(
    backbone: Backbone, batch: Sequence[Given], seeds: Sequence[int], course: Course, flags: Flags
) -> Generator[None, None, list[Tensor]]:
    """Make the mels of a batch, by Euler's method.

    Yields:
        None after each step: a sign of life.

    Returns:
        Of each, float32 [frames, n_mels] on the backbone's device; what was given stands in it as it was given.
    """
    whole = backbone.filled(batch, guided=course.is_guided)
    evaluate = backbone.evaluation(backbone.prepare(whole, flags, guided=course.is_guided))
    x = torch.cat([noise(seed, one.frames, backbone.sizes.n_mels) for seed, one in zip(seeds, batch, strict=True)])
    x = F.pad(x, (0, 0, 0, sum(one.frames for one in whole) - len(x))).to(backbone.device)
    times = course.times()
    moments = backbone.moments(tuple(times[:-1].tolist()))
    for length, moment in zip(times.diff().tolist(), moments, strict=True):
        velocity, *unguided = evaluate(x, moment)
        for other in unguided:
            velocity = velocity + (velocity - other) * course.guidance
        x.add_(velocity, alpha=length)
        yield
    made = list(torch.split(x, [one.frames for one in whole])[: len(batch)])
    for mel, one in zip(made, batch, strict=True):
        mel[: len(one.mel)] = one.mel
    return made


HIDDEN = 0.7
"""Of a recording, its end: the least that a training hides."""
PROBES = tuple((number + 0.5) / 32 for number in range(32))
"""Times, from noise to sound, at which a loss is measured, each with noise of its own. Under both flags that is as much
work as two chunks in seven steps.
"""


def losses(backbone: Backbone, mel: Tensor, symbols: Tensor, flags: Flags) -> Generator[None, None, Tensor]:
    """How badly the network foretells the hidden end of a recording from its beginning and its transcript.

    The library's loss in training (`CFM.forward`), at fixed times and for fixed noise: the same arguments give the same
    numbers, and under other flags each number has its counterpart.

    Args:
        mel: Of the recording, float32 [frames, n_mels].
        symbols: Of its transcript, int64 [t].

    Yields:
        None after each evaluation: a sign of life.

    Returns:
        Squared errors, means over the bands: float32 [probes, hidden frames] on the CPU.
    """
    known = len(mel) - round(HIDDEN * len(mel))
    prepared = backbone.prepare([Given(mel[:known], symbols, len(mel))], flags, guided=False)
    found = []
    for number, (time, moment) in enumerate(zip(PROBES, backbone.moments(PROBES), strict=True)):
        start = noise(number, *mel.shape)
        flow = mel - start
        foretold = backbone.velocity((start + time * flow).to(backbone.device), prepared, moment)[0].cpu()
        found.append((foretold - flow)[known:].square().mean(1))
        yield
    return torch.stack(found)
