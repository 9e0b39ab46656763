"""BigVGAN speaks as an independent implementation does, one mel and many of different length at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tiny_f5
from engines.errors import RequestRefused
from tests import f5_models

if TYPE_CHECKING:
    from torch import Tensor

    from engines.torch.bigvgan import BigVGAN

    State = dict[str, Tensor]

ALIKE = 1e-5


def load(folder: Path) -> BigVGAN:
    f5_models.prepare()
    import torch

    from engines.torch.bigvgan import BigVGAN

    return BigVGAN(folder, torch.device("cpu"))


def mels(*lengths: int) -> list[Tensor]:
    import torch

    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, 100, generator=generator) * 2 - 3 for length in lengths]


def changed(folder: Path, change: Callable[[State], State]) -> None:
    """Give a vocoder other tensors."""
    import torch

    state = torch.load(folder / "bigvgan_generator.pt", weights_only=True)["generator"]
    torch.save({"generator": change(state)}, folder / "bigvgan_generator.pt")


def folded(state: State) -> State:
    """Without weight norm, by its definition."""
    plain = {name: tensor for name, tensor in state.items() if not name.endswith(("weight_g", "weight_v"))}
    for name in [name for name in state if name.endswith("weight_v")]:
        rows = state[name].flatten(1).norm(dim=1)[:, None, None]
        plain[name.removesuffix("_v")] = state[name] / rows * state[f"{name[:-1]}g"]
    return plain


def as_today(state: State) -> State:
    """Weight norm as torch's parametrizations name it."""
    norms = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    return {
        name.replace(last, norms[last]) if (last := name.rpartition(".")[2]) in norms else name: tensor
        for name, tensor in state.items()
    }


def independent(folder: Path) -> Any:
    """The BigVGAN of transformers, which was made for the mels of another model and changes them first."""
    import torch
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniBigVGANConfig
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavBigVGANModel

    said = json.loads((folder / "config.json").read_text())
    same = (
        "upsample_initial_channel", "resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates",
        "upsample_kernel_sizes",
    )  # fmt: skip
    config = Qwen2_5OmniBigVGANConfig(mel_dim=said["num_mels"], **{name: said[name] for name in same})
    model: Any = Qwen2_5OmniToken2WavBigVGANModel(config)
    state = torch.load(folder / "bigvgan_generator.pt", weights_only=True)["generator"]
    model.load_state_dict(folded(state))
    model.process_mel_spectrogram = lambda mel: mel
    return model.eval()


def test_it_speaks_as_another_implementation_does(tmp_path: Path) -> None:
    """Alone, and several at a time; from a single frame on."""
    import torch

    folder = tiny_f5.build_bigvgan(tmp_path / "bigvgan")
    ours, other = load(folder), independent(folder)
    given = mels(40, 7, 150, 1, 2)
    for mel, together in zip(given, ours(given), strict=True):
        with torch.inference_mode():
            expected = other(mel.t()[None])
        assert 0.01 < expected.abs().max() < 1, "audible, and nothing cut off"
        assert len(together) == len(mel) * 256
        for sound in (together, ours([mel])[0]):
            assert float((sound - expected).abs().max()) < ALIKE


@pytest.mark.parametrize("change", [folded, as_today])
def test_weight_norm_may_be_named_as_today_or_folded_in(change: Callable[[State], State], tmp_path: Path) -> None:
    folder = tiny_f5.build_bigvgan(tmp_path / "bigvgan", pairs=1)
    (mel,) = mels(12)
    (expected,) = load(folder)([mel])
    changed(folder, change)
    assert float((load(folder)([mel])[0] - expected).abs().max()) < ALIKE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resblock": "2"}, "unsupported resblock 2; supported: 1"),
        ({"activation": "snake"}, "unsupported activation snake; supported: snakebeta"),
        ({"sampling_rate": 44_100}, "unsupported sampling_rate 44100; supported: 24000"),
        ({"upsample_rates": [4, 4, 2, 2, 2, 1]}, "sizes out of range"),
        ({"upsample_rates": [4, 4]}, "can't be used"),
        ({"upsample_initial_channel": 16}, "sizes out of range"),
        ({"upsample_initial_channel": 64}, r"conv_pre\.\S+ is \[128, 1, 1\], expected \[64, 1, 1\]"),
        ({"resblock_kernel_sizes": [3, 4]}, "sizes out of range"),
        ({"resblock_dilation_sizes": [[1], 3]}, "keys of a BigVGAN configuration are missing"),
        ({"use_bias_at_final": True}, r"conv_post\.bias is missing"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = tiny_f5.build_bigvgan(tmp_path / "bigvgan")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | change))
    with pytest.raises(RequestRefused, match=words) as refused:
        load(folder)
    assert "nvidia/bigvgan_v2_24khz_100band_256x" in refused.value.hint


@pytest.mark.parametrize("name", ["config.json", "bigvgan_generator.pt"])
def test_files_that_are_not_there_are_named(name: str, tmp_path: Path) -> None:
    folder = tiny_f5.build_bigvgan(tmp_path / "bigvgan")
    (folder / name).unlink()
    with pytest.raises(RequestRefused, match=rf"can't read the vocoder's .*{name}: No such file"):
        load(folder)


def test_weights_that_are_none_are_refused(tmp_path: Path) -> None:
    """What is not a number, and rubbish."""
    folder = tiny_f5.build_bigvgan(tmp_path / "bigvgan")
    changed(folder, lambda state: state | {"conv_pre.bias": state["conv_pre.bias"] / 0})
    with pytest.raises(RequestRefused, match=r"not numbers .* conv_pre\.bias"):
        load(folder)
    (folder / "bigvgan_generator.pt").write_bytes(b"rubbish")
    with pytest.raises(RequestRefused, match="can't be used"):
        load(folder)
