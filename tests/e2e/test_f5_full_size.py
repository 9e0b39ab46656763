"""F5-TTS and E2-TTS in full size, with random weights: the library's sound, alone and in a batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tiny_f5
from engines.device import allowance
from tests import f5_models
from tests.f5_models import Built, Library, build_full, request

if TYPE_CHECKING:
    from torch import Tensor

    from engines.f5.net.model import F5Model, Request

pytestmark = pytest.mark.long

log = logging.getLogger(__name__)

ALIKE = 1e-3  # of full scale
NEAR = 0.03  # of the sound: in bfloat16 it is at least 30 dB above the error
PLENTY = 1 << 40
LENGTHS = ((20, 15, 45), (30, 40, 75), (40, 60, 120))  # frames of the recording, symbols, frames in all
SOLVERS = ((7, 2.0, -1.0), (7, 0.0, None))


@pytest.fixture(autouse=True)
def _all_processors() -> Iterator[None]:
    """Tests of this size have the machine for themselves."""
    f5_models.prepare()
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(allowance.processors())
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=tiny_f5.KINDS)
def built(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Built]:
    """One of the published ones, up to 1.4 GB; it is removed in the end."""
    one = build_full(tmp_path, request.param)
    yield one
    one.checkpoint.unlink()


def spoken(model: F5Model, requests: Sequence[Request], built: Built) -> Mapping[int, Tensor]:
    return dict(one for one in model.render(requests, built.flags, PLENTY) if one is not None)


def test_every_published_size_sounds_as_the_librarys(built: Built) -> None:
    """In float32 one by one and all in one batch, with guidance and without; in bfloat16 nearly so."""
    from engines.f5.net.flow import SolverSettings

    ways = [
        [request(built.sizes, number, SolverSettings(*solver), lengths=LENGTHS) for number in range(len(LENGTHS))]
        for solver in SOLVERS
    ]
    library = Library(built)
    expected = [{one.key: library.say(one) for one in requests} for requests in ways]
    del library
    exact, half = built.load(), built.load("bfloat16")
    for requests, sounds in zip(ways, expected, strict=True):
        together, near = spoken(exact, requests, built), spoken(half, requests, built)
        for one in requests:
            sound, alone = sounds[one.key], spoken(exact, [one], built)[one.key]
            differences = [float((ours - sound).abs().max()) for ours in (alone, together[one.key])]
            error = float((near[one.key] - sound).norm() / sound.norm())
            log.info("%s: loudest %.2f, differences %.1e %.1e, bfloat16 %.3f", one.solver, sound.abs().max(),
                     *differences, error)  # fmt: skip
            assert sound.abs().max() > 0.01
            assert max(differences) < ALIKE
            assert 0 < error < NEAR
