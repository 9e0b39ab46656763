"""Sampling by conditional flow matching (arXiv 2210.02747): from noise to mel spectrogram with an ODE solver.

Same numbers as `f5_tts.model.cfm.CFM.sample`: its schedule of times, Euler's method, classifier-free guidance, and its
noise for a seed, except that each request has a random generator of its own. Compared in
`tests/unit/engines/f5/net/test_flow.py` and `test_model.py`.
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
from engines.f5.net.batch import Conditions

# Empirically Pruned Step Sampling (EPSS, arXiv 2505.19931), in 32nds; schedules of other lengths are uniform.
_EPSS = MappingProxyType({
    5: (0, 2, 4, 8, 16, 32),
    6: (0, 2, 4, 6, 8, 16, 32),
    7: (0, 2, 4, 6, 8, 16, 24, 32),
    10: (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32),
    12: (0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32),
})  # fmt: skip
_MIN_CFG_STRENGTH = 1e-5  # below, the library computes no unconditional pass


@dataclass(frozen=True, slots=True)
class SolverSettings:
    """How the ODE is solved; named as the arguments of `CFM.sample`.

    Attributes:
        steps: Euler steps, 1 or more; each is one evaluation of the network (`nfe_step`).
        cfg_strength: Strength of classifier-free guidance, 0 or more; 0 saves half of the work.
        sway_sampling_coef: Sway sampling (F5-TTS, arXiv 2410.06885), -1 … 1: below 0, more steps near the noise; None
            for a schedule without it.
    """

    steps: int = 32
    cfg_strength: float = 2.0
    sway_sampling_coef: float | None = -1.0

    @property
    def uses_cfg(self) -> bool:
        return self.cfg_strength >= _MIN_CFG_STRENGTH

    def times(self) -> Tensor:
        """Schedule of the solver from 0 (noise) to 1 (mel), float32 (steps + 1,)."""
        epss = _EPSS.get(self.steps)
        uniform = torch.linspace(0, 1, self.steps + 1)
        t = uniform if epss is None else torch.tensor(epss, dtype=torch.float32) / 32
        if self.sway_sampling_coef is None:
            return t
        return t + self.sway_sampling_coef * (torch.cos(math.pi / 2 * t) - 1 + t)


def noise(seed: int, frames: int, n_mels: int) -> Tensor:
    """Initial state of the ODE, float32 (frames, n_mels) on the CPU: the same for every device."""
    return torch.randn(frames, n_mels, generator=torch.Generator().manual_seed(seed))


def sample(
    backbone: Backbone, batch: Sequence[Conditions], seeds: Sequence[int], settings: SolverSettings, flags: Flags
) -> Generator[None, None, list[Tensor]]:
    """Generate the mel spectrograms of a batch with Euler's method.

    Args:
        backbone: The network.
        batch: 1 or more sequences.
        seeds: Of the noise of each sequence.
        settings: The same for the batch.
        flags: Of the model's variant.

    Yields:
        None after each step, as a sign of life.

    Returns:
        For each sequence, float32 (duration, n_mels) on the backbone's device; it begins with `cond` unchanged.
    """
    padded = backbone.padded_for_graphs(batch, use_cfg=settings.uses_cfg)
    velocity_at = backbone.velocity_function(backbone.prepare(padded, flags, use_cfg=settings.uses_cfg))
    n_mels = backbone.sizes.n_mels
    x = torch.cat([noise(seed, seq.duration, n_mels) for seed, seq in zip(seeds, batch, strict=True)])
    # Dummy sequences start from zeros: (frames of the batch, n_mels) -> (frames, n_mels)
    x = F.pad(x, (0, 0, 0, sum(seq.duration for seq in padded) - len(x))).to(backbone.device)
    times = settings.times()
    time_conds = backbone.time_conditioning(tuple(times[:-1].tolist()))  # (steps, n, dim)
    for dt, time_cond in zip(times.diff().tolist(), time_conds, strict=True):
        velocity, *unconditional = velocity_at(x, time_cond)  # each (frames, n_mels)
        for null_velocity in unconditional:  # none without guidance, else one
            velocity = velocity + (velocity - null_velocity) * settings.cfg_strength
        x.add_(velocity, alpha=dt)
        yield
    # (frames, n_mels) -> (duration, n_mels) each, without the dummies
    mels = list(torch.split(x, [seq.duration for seq in padded])[: len(batch)])
    for mel, seq in zip(mels, batch, strict=True):
        mel[: len(seq.cond)] = seq.cond
    return mels


MASKED_SHARE = 0.7
"""Share of a recording that is hidden for `losses`, at its end: the least that training hides (`frac_lengths_mask`)."""
LOSS_TIMES = tuple((number + 0.5) / 32 for number in range(32))
"""Times, 0 … 1, at which the loss is computed, each with its own noise. For both variants this is as much work as two
chunks of seven steps.
"""


def losses(backbone: Backbone, mel: Tensor, text: Tensor, flags: Flags) -> Generator[None, None, Tensor]:
    """Flow-matching loss on the hidden end of a recording, given its beginning and its transcript.

    The training loss of `CFM.forward` at fixed times, with fixed noise and a fixed mask: deterministic, and comparable
    element by element between different flags.

    Args:
        backbone: The network.
        mel: Of the recording, float32 (frames, n_mels).
        text: Token ids of its transcript, int64 (text_len,).
        flags: The variant to evaluate the network as.

    Yields:
        None after each evaluation, as a sign of life.

    Returns:
        Squared errors, averaged over the mel bands: float32 (times, hidden frames) on the CPU.
    """
    visible = len(mel) - round(MASKED_SHARE * len(mel))
    prepared = backbone.prepare([Conditions(mel[:visible], text, len(mel))], flags, use_cfg=False)
    found = []
    for number, (t, time_cond) in enumerate(zip(LOSS_TIMES, backbone.time_conditioning(LOSS_TIMES), strict=True)):
        x0 = noise(number, *mel.shape)  # (frames, n_mels)
        flow = mel - x0  # the velocity on the straight path from x0 to mel
        predicted = backbone.velocity((x0 + t * flow).to(backbone.device), prepared, time_cond)[0].cpu()
        found.append((predicted - flow)[visible:].square().mean(1))  # (hidden frames,)
        yield
    return torch.stack(found)  # (times, hidden frames)
