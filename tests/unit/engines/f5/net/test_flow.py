"""From noise to mels: the library's steps, noise and loss."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engines.checkpoints.f5_variant import V0, V1, Flags
from tests import f5_models
from tests.f5_models import Built, build, finished

if TYPE_CHECKING:
    from torch import Tensor


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An F5-TTS v1."""
    return build(tmp_path_factory.mktemp("f5"))


def test_steps_are_the_librarys() -> None:
    """Pruned where it prunes them, swayed as it sways them."""
    f5_models.prepare()
    import torch

    from engines.f5.net.flow import SolverSettings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from f5_tts.model.utils import get_epss_timesteps
    for steps in range(1, 65):
        even = get_epss_timesteps(steps, device="cpu", dtype=torch.float32)
        assert torch.equal(SolverSettings(steps, sway_sampling_coef=None).times(), even)
        for sway in (-1.0, 0.3):
            swayed = even + sway * (torch.cos(torch.pi / 2 * even) - 1 + even)
            assert torch.equal(SolverSettings(steps, sway_sampling_coef=sway).times(), swayed)


def test_noise_is_the_librarys() -> None:
    """What `torch.manual_seed` and `torch.randn` give, without either."""
    import torch

    from engines.f5.net.flow import noise

    with torch.random.fork_rng():
        torch.manual_seed(7)
        theirs = torch.randn(123, 100)
    assert torch.equal(noise(7, 123, 100), theirs)


@pytest.mark.parametrize("flags", [V0, V1])
@pytest.mark.parametrize("name", ["f5-base", "e2-base"])
def test_losses_are_the_librarys(name: str, flags: Flags, tmp_path: Path) -> None:
    """`CFM.forward` at the same times, with the same noise and the same part hidden; each flag has its own."""
    built = build(tmp_path, name)
    model = Built(built.checkpoint, built.vocoder, built.sizes, flags)
    mel, symbols = recording()
    from engines.f5.net.flow import losses

    def ours_under(flags: Flags) -> Tensor:
        return finished(losses(model.load().backbone, mel, symbols, flags))[1]

    ours = ours_under(flags)
    assert ours.shape == (32, 70)
    assert ours.mean(1).tolist() == pytest.approx(librarys(model, mel, symbols), rel=1e-4)
    other = ours_under(V1 if flags == V0 else V0)
    assert other.mean(1).tolist() != pytest.approx(ours.mean(1).tolist(), rel=1e-3)


def recording() -> tuple[Tensor, Tensor]:
    """A mel [100, 100] and its transcript [30]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(100, 100, generator=generator), torch.randint(0, 2545, (30,), generator=generator)


def librarys(built: Built, mel: Tensor, symbols: Tensor) -> list[float]:
    """The body of `CFM.forward` without its chance."""
    import torch

    hidden, found = slice(30, 100), []
    for number in range(32):
        time = torch.tensor([(number + 0.5) / 32])
        start = torch.randn(mel.shape, generator=torch.Generator().manual_seed(number))
        seen = mel.clone()
        seen[hidden] = 0
        given: dict[str, Any] = {"cond": seen[None], "text": symbols[None], "time": time}
        with torch.inference_mode():
            flow = built.library.cfm.transformer(x=((1 - time) * start + time * mel)[None], **given)[0]
        found.append(float((flow - (mel - start))[hidden].square().mean()))
    return found
