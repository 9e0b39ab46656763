"""Builds F5-TTS and E2-TTS models of random weights: tiny for tests and the demo, full size for benchmarks.

Their audio is noise. Everything else is real: the files, their names and keys, the code that loads and runs them.

    python examples/tiny_f5.py models/tiny                            F5-TTS, loads in 0.1 s
    python examples/tiny_f5.py --full --model f5-small models/small   the sizes of a published one
    python examples/tiny_f5.py --container training models/run        as the trainer saves it
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import installing
from engines.checkpoints import f5_vocabulary
from engines.checkpoints.f5_layout import OPTIONAL, PUBLISHED, Sizes, expected
from engines.checkpoints.f5_variant import V0, V1, Flags

if TYPE_CHECKING:
    from torch import Generator, Tensor

CONTAINERS = ("bare", "ema", "training")
_TRAINED = 1_250_000  # updates that a training file says it has behind it


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the models that the library has a configuration for.

    Attributes:
        full: Its sizes.
        tiny: A few thousandths of them.
        flags: What leaves no trace in the file, and is written beside it.
    """

    full: Sizes
    tiny: Sizes
    flags: Flags


def _kind(published: str, layers: int, flags: Flags) -> Kind:
    full = replace(PUBLISHED[published], vocabulary=f5_vocabulary.LIBRARY_SYMBOLS)
    tiny = replace(full, dim=128, heads=2, depth=layers)
    return Kind(full, replace(tiny, text_dim=32, conv_layers=2) if full.conv_layers else tiny, flags)


KINDS: Mapping[str, Kind] = {
    "f5-base": _kind("F5-TTS Base", 3, V0),
    "f5-small": _kind("F5-TTS Small", 2, V0),
    "f5-v1-base": _kind("F5-TTS Base", 3, V1),
    "f5-v1-small": _kind("F5-TTS Small", 2, V1),
    "e2-base": _kind("E2-TTS Base", 4, V0),
    "e2-small": _kind("E2-TTS Small", 2, V0),
}


def build(folder: Path, sizes: Sizes, container: str = "bare", seed: int = 0) -> Path:
    """Write a model as a download or a training leaves it, its vocab.txt beside it; needs the `f5` extra.

    Args:
        sizes: With the number of symbols of the library's own vocabulary.
        container: `bare`, safetensors with the model's own names; `ema`, as the published ones are; `training`, a
            trainer's whole file.
        seed: The same arguments give the same weights.

    Returns:
        The checkpoint.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = f5_vocabulary.library()
    if vocabulary is None:
        raise RuntimeError(f"f5-tts is not installed: {installing.for_extra('f5', 'f5-tts')}")
    shutil.copyfile(vocabulary, folder / f5_vocabulary.NAME)
    state = weights(sizes, seed)
    if container == "bare":
        save_file(state, folder / "model.safetensors")
        return folder / "model.safetensors"
    averaged = {f"ema_model.{name}": tensor for name, tensor in state.items()}
    averaged |= {"initted": torch.tensor(True), "step": torch.tensor(_TRAINED)}
    if container == "ema":
        save_file(averaged, folder / f"model_{_TRAINED}.safetensors")
        return folder / f"model_{_TRAINED}.safetensors"
    parts = {"model_state_dict": weights(sizes, seed + 1), "ema_model_state_dict": averaged}
    unused: dict[str, Any] = {"optimizer_state_dict": {}, "scheduler_state_dict": {}, "update": _TRAINED}
    torch.save(parts | unused, folder / "model_last.pt")
    return folder / "model_last.pt"


def weights(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under which signals stay alive through all layers, by the library's names."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    table = {name: shape for name, shape in expected(sizes).items() if name not in OPTIONAL}
    state = {name: _filled(name, shape, generator) for name, shape in table.items()}
    turns = torch.arange(0, sizes.dim_head, 2).float() / sizes.dim_head
    return state | {"transformer.rotary_embed.inv_freq": 1 / 10000**turns}


def backbone_arguments(sizes: Sizes, flags: Flags) -> dict[str, Any]:
    """For the library's `DiT` or `UNetT`."""
    given = {
        "dim": sizes.dim, "depth": sizes.depth, "heads": sizes.heads, "dim_head": sizes.dim_head,
        "ff_mult": sizes.ff_mult, "mel_dim": sizes.n_mels, "text_num_embeds": sizes.vocabulary,
        "text_dim": sizes.text_dim, "conv_layers": sizes.conv_layers, "qk_norm": "rms_norm" if sizes.qk_norm else None,
        "text_mask_padding": flags.text_mask_padding, "pe_attn_head": flags.pe_attn_head,
    }  # fmt: skip
    if sizes.family == "dit":
        given["long_skip_connection"] = sizes.long_skip_connection
        given["text_embedding_average_upsampling"] = flags.average_upsampling
    return given


def build_vocos(folder: Path, tiny: bool = True, seed: int = 0) -> Path:
    """Write a vocoder's folder as charactr/vocos-mel-24khz is: config.yaml and pytorch_model.bin.

    Returns:
        The folder.
    """
    import torch

    width, layers = (32, 2) if tiny else (512, 8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(_VOCOS.format(width=width, inner=3 * width, layers=layers), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    state = {name: _filled(name, shape, generator) for name, shape in _vocos(width, layers).items()}
    window = torch.hann_window(1024)
    filters = torch.rand(513, 100, generator=generator)  # of the mel scale, which speaking does not need
    listening = {"spectrogram.window": window, "mel_scale.fb": filters}
    state |= {f"feature_extractor.mel_spec.{name}": tensor for name, tensor in listening.items()}
    torch.save(state | {"head.istft.window": window.clone()}, folder / "pytorch_model.bin")
    return folder


def build_bigvgan(folder: Path, tiny: bool = True, pairs: int = 3, seed: int = 0) -> Path:
    """Write a vocoder's folder as nvidia/bigvgan_v2_24khz_100band_256x is: config.json and bigvgan_generator.pt.

    Args:
        pairs: Of convolutions in each residual block.

    Returns:
        The folder.
    """
    import torch

    kernels = [3, 5] if tiny else [3, 7, 11]
    dilations = [[1, 3, 5][:pairs]] * len(kernels)
    config: dict[str, Any] = {
        "resblock": "1", "activation": "snakebeta", "snake_logscale": True, "use_tanh_at_final": False,
        "use_bias_at_final": False, "sampling_rate": 24000, "n_fft": 1024, "win_size": 1024, "hop_size": 256,
        "num_mels": 100, "fmin": 0, "fmax": None, "upsample_rates": [4, 4, 2, 2, 2, 2],
        "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4], "upsample_initial_channel": 128 if tiny else 1536,
        "resblock_kernel_sizes": kernels, "resblock_dilation_sizes": dilations,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=4), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    state = {name: _filled(name, shape, generator) for name, shape in _bigvgan(config).items()}
    for name in [name for name in state if name.endswith("weight_v")]:  # its weight norm: a length for each row
        state[f"{name[:-1]}g"] = 0.8 * state[name].flatten(1).norm(dim=1)[:, None, None]
    torch.save({"generator": state}, folder / "bigvgan_generator.pt")
    return folder


def _bigvgan(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of its tensors, but for the lengths of its weight norm."""
    width = config["upsample_initial_channel"]
    table: dict[str, tuple[int, ...]] = {"conv_pre.weight_v": (width, 100, 7), "conv_pre.bias": (width,)}
    kernels, pairs = config["resblock_kernel_sizes"], config["resblock_dilation_sizes"]
    for stage, kernel in enumerate(config["upsample_kernel_sizes"]):
        table |= {f"ups.{stage}.0.weight_v": (width, width // 2, kernel), f"ups.{stage}.0.bias": (width // 2,)}
        width //= 2
        for own, size in enumerate(kernels):
            block = f"resblocks.{stage * len(kernels) + own}"
            for number in range(len(pairs[own])):
                for side in ("convs1", "convs2"):
                    table[f"{block}.{side}.{number}.weight_v"] = (width, width, size)
                    table[f"{block}.{side}.{number}.bias"] = (width,)
            for number in range(2 * len(pairs[own])):
                table |= {f"{block}.activations.{number}.act.{name}": (width,) for name in ("alpha", "beta")}
    table |= {f"activation_post.act.{name}": (width,) for name in ("alpha", "beta")}
    return table | {"conv_post.weight_v": (1, width, 7)}


_VOCOS = """\
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args:
    sample_rate: 24000
    n_fft: 1024
    hop_length: 256
    n_mels: 100
    padding: center

backbone:
  class_path: vocos.models.VocosBackbone
  init_args:
    input_channels: 100
    dim: {width}
    intermediate_dim: {inner}
    num_layers: {layers}

head:
  class_path: vocos.heads.ISTFTHead
  init_args:
    dim: {width}
    n_fft: 1024
    hop_length: 256
    padding: center
"""


def _vocos(width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of its backbone and head."""
    table: dict[str, tuple[int, ...]] = {"backbone.embed.weight": (width, 100, 7), "backbone.embed.bias": (width,)}
    shapes = {
        "dwconv.weight": (width, 1, 7), "dwconv.bias": (width,), "norm.weight": (width,), "norm.bias": (width,),
        "pwconv1.weight": (3 * width, width), "pwconv1.bias": (3 * width,),
        "pwconv2.weight": (width, 3 * width), "pwconv2.bias": (width,), "gamma": (width,),
    }  # fmt: skip
    for layer in range(layers):
        table |= {f"backbone.convnext.{layer}.{name}": shape for name, shape in shapes.items()}
    for norm in ("norm", "final_layer_norm"):
        table |= {f"backbone.{norm}.weight": (width,), f"backbone.{norm}.bias": (width,)}
    return table | {"head.out.weight": (1026, width), "head.out.bias": (1026,)}


def _filled(name: str, shape: tuple[int, ...], generator: Generator) -> Tensor:
    import torch

    noise = torch.randn(shape, generator=generator)
    if name.endswith(("norm.weight", "q_norm.weight", "k_norm.weight", ".g")):
        return 1 + 0.1 * noise
    if len(shape) == 1 or name.endswith(("grn.gamma", "grn.beta")):
        return 0.1 * noise
    if name.endswith("text_embed.weight"):
        return 0.5 * noise
    return noise.mul_(0.7 / noise[0].numel() ** 0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=KINDS, default="f5-v1-base")
    parser.add_argument("--full", action="store_true", help="the sizes of the real model")
    parser.add_argument("--container", choices=CONTAINERS, default="bare")
    arguments = parser.parse_args()
    chosen = KINDS[arguments.model]
    build_vocos(arguments.folder / "vocos", tiny=not arguments.full)
    variant = "v0" if chosen.flags == V0 else "v1"
    (arguments.folder / "model.yaml").write_text(f"variant: {variant}\n", encoding="utf-8")
    print(build(arguments.folder, chosen.full if arguments.full else chosen.tiny, arguments.container))
