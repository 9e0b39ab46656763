"""The vocoder speaks as the library's does, one mel and many of different length at a time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tiny_f5
from engines.errors import RequestRefused
from tests.f5_models import Built, build

if TYPE_CHECKING:
    from torch import Tensor

    from engines.torch.vocos import Vocos

LENGTHS = (40, 7, 1000, 2, 40)
ALIKE = 1e-5


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("f5"))


@pytest.fixture(scope="module")
def vocos(built: Built) -> Vocos:
    return load(built.vocoder)


def load(folder: Path) -> Vocos:
    import torch

    from engines.torch.vocos import Vocos

    return Vocos(folder, torch.device("cpu"))


def mels(*lengths: int) -> list[Tensor]:
    import torch

    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, 100, generator=generator) * 2 - 3 for length in lengths]


def test_it_speaks_as_the_librarys_does(vocos: Vocos, built: Built) -> None:
    """Alone, and all in one batch."""
    given = mels(*LENGTHS)
    for mel, together in zip(given, vocos(given), strict=True):
        expected = built.library.vocos.decode(mel.t()[None])[0]
        assert expected.abs().max() > 0.01
        assert len(together) == (len(mel) - 1) * vocos.config.hop
        for sound in (together, vocos([mel])[0]):
            assert float((sound - expected).abs().max()) < ALIKE


def test_loud_mels_are_cut_as_in_the_library(vocos: Vocos, built: Built) -> None:
    """Magnitudes above 100."""
    (mel,) = mels(20)
    mel *= 100
    expected = built.library.vocos.decode(mel.t()[None])[0]
    assert float((vocos([mel])[0] - expected).abs().max()) < ALIKE * float(expected.abs().max())


def test_it_is_known_from_its_own_files(vocos: Vocos) -> None:
    assert (vocos.config.rate_hz, vocos.config.hop, vocos.config.n_mels) == (24_000, 256, 100)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("vocos.heads.ISTFTHead", "os.system", "unsupported head os.system; supported: vocos.heads.ISTFTHead"),
        ("padding: center", "padding: same", "padding of its head is not `center`"),
        ("dim: 32", "dim: 33", r"backbone\.embed\.weight is \[32, 100, 7\], expected \[33, 100, 7\]"),
        ("num_layers: 2", "num_layers: 3", r"convnext\.2\.dwconv\.weight is missing"),
        ("num_layers: 2", "num_layers: 1000000000", "sizes out of range"),
        ("num_layers: 2", "num_layers: 0", "sizes out of range"),
        ("num_layers: 2", "layers: 2", "keys of a Vocos configuration are missing"),
        ("num_layers: 2", "num_layers: two", "invalid literal"),
        ("head:", "tail:", "keys of a Vocos configuration are missing"),
        ("backbone:", "backbone: []\nspare:", "keys of a Vocos configuration are missing"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    old: str, new: str, words: str, built: Built, tmp_path: Path
) -> None:
    """With the words that say what is wrong; nothing that it names is imported."""
    folder = Path(shutil.copytree(built.vocoder, tmp_path / "vocos"))
    said = (folder / "config.yaml").read_text()
    assert old in said
    (folder / "config.yaml").write_text(said.replace(old, new))
    with pytest.raises(RequestRefused, match=words) as refused:
        load(folder)
    assert "charactr/vocos-mel-24khz" in refused.value.hint


@pytest.mark.parametrize("name", ["config.yaml", "pytorch_model.bin"])
def test_files_that_are_not_there_are_named(name: str, built: Built, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built.vocoder, tmp_path / "vocos"))
    (folder / name).unlink()
    with pytest.raises(RequestRefused, match=rf"can't read the vocoder's .*{name}: No such file"):
        load(folder)


def test_weights_that_are_none_are_refused(built: Built, tmp_path: Path) -> None:
    """Rubbish, and what is not a number."""
    import torch

    folder = tiny_f5.build_vocos(tmp_path / "vocos")
    state: dict[str, Any] = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["head.out.bias"][0] = torch.inf
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(RequestRefused, match=r"not numbers .* head\.out\.bias"):
        load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"rubbish")
    with pytest.raises(RequestRefused, match="can't be used"):
        load(folder)
