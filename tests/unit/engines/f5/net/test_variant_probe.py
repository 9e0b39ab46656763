"""v0 or v1 by measurement: what decides, and what decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engines.checkpoints.f5_variant import V0, V1, Flags
from tests import f5_models
from tests.f5_models import finished

if TYPE_CHECKING:
    from torch import Tensor

NAN = float("nan")


@pytest.mark.parametrize(
    ("v0", "v1", "guess", "chance", "flags"),
    [
        (0.6, 0.7, 1.1, 0.002, V0),
        (0.7, 0.6, 1.1, 0.002, V1),
        (0.7, 0.6, 1.1, 0.01, V1),
        (0.7, 0.6, 1.1, 0.012, None),
        (0.7, 0.678, 1.1, 0.002, V1),
        (0.7, 0.68, 1.1, 0.002, None),
        (0.7, 0.7, 1.1, 1.0, None),
        (1.3, 1.09, 1.1, 0.002, V1),
        (1.3, 1.1, 1.1, 0.002, None),
        (15.0, 10.0, 1.1, 0.002, None),
        (NAN, 0.6, 1.1, 0.002, None),
        (0.6, 0.7, 1.1, NAN, None),
    ],
)
def test_only_what_is_lower_beyond_doubt_decides(
    v0: float, v1: float, guess: float, chance: float, flags: Flags | None
) -> None:
    f5_models.prepare()
    from engines.f5.net.variant_probe import Measured

    measured = Measured(v0, v1, guess, chance)
    assert measured.flags == flags
    if flags is None:
        assert measured.doubt() == (", which is too close" if min(v0, v1) < guess else WORSE)


WORSE = ", no better than an untrained baseline (1.1000)"


def test_chance_counts_the_pieces_that_speak_for_one_side() -> None:
    """All ten: 2 of 1,024; all but the one that says least: 4; as many for either side: hardly any evidence."""
    f5_models.prepare()
    import torch

    from engines.f5.net.variant_probe import p_value

    def of(*gains: float) -> float:
        """Ten pieces of seven frames, at two times."""
        other = torch.ones(2, 70)
        own = torch.tensor(gains).repeat_interleave(7).exp() * other
        assert p_value(other, own) == p_value(own, other)
        return p_value(own, other)

    assert of(*[0.1] * 10) == 2 / 1024
    assert of(*[0.01] * 9, 3.0) == 2 / 1024
    assert of(-0.01, *[0.1] * 9) == 4 / 1024
    assert of(*[0.1] * 5, *[-0.1] * 5) > 0.7
    assert of(*[0.0] * 10) == 1


def gaussian(frames: int) -> Tensor:
    """A mel whose frames are drawn from a normal distribution in which bands go together."""
    import torch

    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(100, 100, generator=generator) * torch.logspace(-2, 0.5, 100) / 10
    return torch.randn(frames, 100, generator=generator) @ mixing.t() - 3


def test_the_guess_is_the_best_linear_one() -> None:
    """Least squares, from the noisy frame to the flow, finds none that is better; nor is it out of reach."""
    f5_models.prepare()
    import torch

    from engines.f5.net.flow import LOSS_TIMES, noise
    from engines.f5.net.variant_probe import baseline_loss

    mel, found = gaussian(20_000).double(), []
    for number, time in enumerate(LOSS_TIMES):
        start = noise(number, *mel.shape).double()
        seen = torch.cat([(1 - time) * start + time * mel, torch.ones(len(mel), 1)], 1)
        flow = mel - start
        found.append(float((seen @ torch.linalg.lstsq(seen, flow).solution - flow).square().mean()))
    assert baseline_loss(mel.float()) == pytest.approx(sum(found) / len(found), rel=0.02)


@pytest.mark.parametrize("name", ["f5-base", "f5-v1-base"])
def test_random_weights_decide_nothing(name: str, tmp_path: Path) -> None:
    """However far apart their losses are. Measuring takes a while, and gives signs of life."""
    built = f5_models.build(tmp_path, name)
    model = built.load()
    import torch

    from engines.f5.net.flow import LOSS_TIMES
    from engines.f5.net.variant_probe import measure

    signs, measured = finished(measure(model.backbone, gaussian(300), torch.arange(40)))
    assert signs == 2 * len(LOSS_TIMES)
    assert not measured.beats_baseline
    assert measured.flags is None
