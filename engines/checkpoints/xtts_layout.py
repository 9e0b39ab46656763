"""Names and shapes of the tensors of an XTTS-v2 model, as coqui-tts 0.28 builds it.

Sizes that vary between models are read from the shapes in the file. All other shapes follow from them, so an
inconsistent file is recognised by its header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from engines.modelfiles.tensor_file import Entry, Shape

_LAYER_NUMBER = re.compile("[0-9]{1,3}")
_MELS, _LATENTS, _SPEAKER = 80, 32, 512
_HEADS_WIDTH = 512  # of the perceiver: 8 heads of 64, in models of any width
_ENCODER_BLOCKS = 6
_VOCODER_WIDTH, _UPSAMPLING, _KERNELS = 512, (16, 16, 4, 4), (3, 7, 11)
_RESNET = ((32, 3), (64, 4), (128, 6), (256, 3))
_MEL_BANDS = 8  # 64 mel bands, halved three times


def expected(tensors: Mapping[str, Entry]) -> dict[str, Shape]:
    """Names and shapes of all tensors of a model with the sizes of this one.

    Args:
        tensors: By the library's names. The text and the mel embedding must be there, with two dimensions.
    """
    words, width = tensors["gpt.text_embedding.weight"].shape
    codes = tensors["gpt.mel_embedding.weight"].shape[0]
    numbers = (name.split(".")[3] for name in tensors if name.startswith("gpt.gpt.h."))
    layers = 1 + max((int(number) for number in numbers if _LAYER_NUMBER.fullmatch(number)), default=-1)
    table: dict[str, Shape] = {
        "mel_stats": (_MELS,),
        "gpt.text_embedding.weight": (words, width),
        "gpt.mel_embedding.weight": (codes, width),
        "gpt.text_pos_embedding.emb.weight": (_rows(tensors, "gpt.text_pos_embedding.emb.weight"), width),
        "gpt.mel_pos_embedding.emb.weight": (_rows(tensors, "gpt.mel_pos_embedding.emb.weight"), width),
    }
    for part in (_gpt(layers, width, words, codes), _voice(width), _vocoder(width), _speaker_encoder()):
        table |= part
    return table


def _rows(tensors: Mapping[str, Entry], name: str) -> int:
    entry = tensors.get(name)
    return entry.shape[0] if entry is not None and entry.shape else 0


def _linear(name: str, rows: int, *columns: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, *columns)
    yield f"{name}.bias", (rows,)


def _gpt(layers: int, width: int, words: int, codes: int) -> Iterator[tuple[str, Shape]]:
    """GPT-2, whose weights have the shape [in, out], and the heads for text and audio."""
    for n in range(layers):
        for name, rows, columns in (
            ("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width), ("mlp.c_proj", 4 * width, width),
        ):  # fmt: skip
            yield f"gpt.gpt.h.{n}.{name}.weight", (rows, columns)
            yield f"gpt.gpt.h.{n}.{name}.bias", (columns,)
        yield from _linear(f"gpt.gpt.h.{n}.ln_1", width)
        yield from _linear(f"gpt.gpt.h.{n}.ln_2", width)
    yield from _linear("gpt.gpt.ln_f", width)
    yield from _linear("gpt.final_norm", width)
    yield from _linear("gpt.text_head", words, width)
    yield from _linear("gpt.mel_head", codes, width)


def _voice(width: int) -> Iterator[tuple[str, Shape]]:
    """Conditioning encoder and perceiver, which compute latents from a recording."""
    yield from _linear("gpt.conditioning_encoder.init", width, _MELS, 1)
    for n in range(_ENCODER_BLOCKS):
        block = f"gpt.conditioning_encoder.attn.{n}"
        yield from _linear(f"{block}.norm", width)
        yield from _linear(f"{block}.qkv", 3 * width, width, 1)
        yield from _linear(f"{block}.proj_out", width, width, 1)
    perceiver, inner = "gpt.conditioning_perceiver", int(width * 4 * 2 / 3)
    yield f"{perceiver}.latents", (_LATENTS, width)
    yield f"{perceiver}.norm.gamma", (width,)
    for n in range(2):
        yield f"{perceiver}.layers.{n}.0.to_q.weight", (_HEADS_WIDTH, width)
        yield f"{perceiver}.layers.{n}.0.to_kv.weight", (2 * _HEADS_WIDTH, width)
        yield f"{perceiver}.layers.{n}.0.to_out.weight", (width, _HEADS_WIDTH)
        yield from _linear(f"{perceiver}.layers.{n}.1.0", 2 * inner, width)
        yield from _linear(f"{perceiver}.layers.{n}.1.2", width, inner)


def _normed(name: str, rows: int, columns: int, kernel: int, out: int) -> Iterator[tuple[str, Shape]]:
    """A convolution with weight norm, saved as magnitudes and directions."""
    yield f"{name}.bias", (out,)
    yield f"{name}.parametrizations.weight.original0", (rows, 1, 1)
    yield f"{name}.parametrizations.weight.original1", (rows, columns, kernel)


def _vocoder(latent: int) -> Iterator[tuple[str, Shape]]:
    """HiFi-GAN, conditioned on the speaker embedding in each upsampling step."""
    decoder, width = "hifigan_decoder.waveform_decoder", _VOCODER_WIDTH
    yield from _linear(f"{decoder}.conv_pre", width, latent, 7)
    yield from _linear(f"{decoder}.cond_layer", width, _SPEAKER, 1)
    for step, kernel in enumerate(_UPSAMPLING):
        yield from _normed(f"{decoder}.ups.{step}", width, width // 2, kernel, width // 2)
        width //= 2
        yield from _linear(f"{decoder}.conds.{step}", width, _SPEAKER, 1)
        for n, size in enumerate(_KERNELS):
            for conv in (f"{kind}.{m}" for kind in ("convs1", "convs2") for m in range(3)):
                yield from _normed(f"{decoder}.resblocks.{step * len(_KERNELS) + n}.{conv}", width, width, size, width)
    yield f"{decoder}.conv_post.weight", (1, width, 7)


def _speaker_encoder() -> Iterator[tuple[str, Shape]]:
    """The ResNet that computes speaker embeddings."""
    encoder = "hifigan_decoder.speaker_encoder"
    yield f"{encoder}.torch_spec.0.filter", (1, 1, 2)
    yield f"{encoder}.torch_spec.1.spectrogram.window", (400,)
    yield f"{encoder}.torch_spec.1.mel_scale.fb", (257, 64)
    before = _RESNET[0][0]
    yield from _linear(f"{encoder}.conv1", before, 1, 3, 3)
    yield from _batch_norm(f"{encoder}.bn1", before)
    for layer, (width, blocks) in enumerate(_RESNET, start=1):
        for n in range(blocks):
            block = f"{encoder}.layer{layer}.{n}"
            yield f"{block}.conv1.weight", (width, before, 3, 3)
            yield f"{block}.conv2.weight", (width, width, 3, 3)
            yield from _batch_norm(f"{block}.bn1", width)
            yield from _batch_norm(f"{block}.bn2", width)
            yield from _linear(f"{block}.se.fc.0", width // 8, width)
            yield from _linear(f"{block}.se.fc.2", width, width // 8)
            if before != width:
                yield f"{block}.downsample.0.weight", (width, before, 1, 1)
                yield from _batch_norm(f"{block}.downsample.1", width)
            before = width
    features = before * _MEL_BANDS
    yield from _linear(f"{encoder}.attention.0", 128, features, 1)
    yield from _batch_norm(f"{encoder}.attention.2", 128)
    yield from _linear(f"{encoder}.attention.3", features, 128, 1)
    yield from _linear(f"{encoder}.fc", _SPEAKER, 2 * features)


def _batch_norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _linear(name, width)
    yield f"{name}.running_mean", (width,)
    yield f"{name}.running_var", (width,)
    yield f"{name}.num_batches_tracked", ()
