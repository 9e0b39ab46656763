"""The tensors of F5-TTS and E2-TTS models: names and shapes, as f5-tts 1.1 builds them.

All sizes are read from the file itself, so that a model which nobody has a configuration for is known too; everything
else follows from them, so that a file which does not fit together is known from its header.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from engines.modelfiles.tensor_file import Entry, Shape

Tensors = Mapping[str, Entry]

MELS = 100
"""Bands of the mels that F5-TTS and E2-TTS are published with, and that Vocos and BigVGAN make sound of."""
ROOT = "transformer."
EMBEDDING = "transformer.text_embed.text_embed.weight"
INPUT = "transformer.input_embed.proj.weight"
OPTIONAL = frozenset({"transformer.rotary_embed.inv_freq"})
"""What follows from the sizes alone: nothing is lost when a file has been saved without it."""

_LAYER_NUMBER = re.compile("[0-9]{1,3}")
_HEAD = 64  # what the library makes of each head, unless its rotary table or the norms of its queries say otherwise
_TIME, _GROUPS, _POSITIONS, _TEXT_KERNEL, _TEXT_WIDENING = 256, 16, 31, 7, 2
_LAYERS = {"dit": "transformer.transformer_blocks.", "unett": "transformer.layers."}
_ATTENTION = {"dit": "attn", "unett": "2"}
_FEED_FORWARD = {"dit": "ff", "unett": "4"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a model is built from; named as the arguments of the library's `DiT` and `UNetT`.

    Attributes:
        family: `dit` (F5-TTS) or `unett` (E2-TTS).
        dim: Width of the layers.
        depth: Number of layers.
        heads, dim_head: Of the attention; together `heads * dim_head` wide.
        ff_mult: The feed-forward part is `int(dim * ff_mult)` wide.
        text_dim: Width of the text embedding; the library's default is n_mels.
        conv_layers: ConvNeXt blocks after the text embedding.
        vocabulary: Symbols, the library's `text_num_embeds`; the embedding has a row more, for filling up.
        n_mels: Mel bands, the library's `mel_dim`.
        qk_norm: Whether queries and keys are normed (`rms_norm`).
        long_skip_connection: From the first layer of a DiT to its last.
    """

    family: str
    dim: int
    depth: int
    heads: int
    ff_mult: float
    text_dim: int
    conv_layers: int
    vocabulary: int = 0
    n_mels: int = MELS
    dim_head: int = _HEAD
    qk_norm: bool = False
    long_skip_connection: bool = False

    @property
    def backbone(self) -> str:
        """In words: `DiT 1024×22, text 512`."""
        text = f", text {self.text_dim}" if self.text_dim != self.n_mels or self.conv_layers else ""
        also = ", qk_norm" * self.qk_norm + ", long skip" * self.long_skip_connection
        return f"{'DiT' if self.family == 'dit' else 'UNetT'} {self.dim}×{self.depth}{text}{also}"


PUBLISHED: Mapping[str, Sizes] = MappingProxyType({
    "F5-TTS Base": Sizes("dit", 1024, 22, 16, 2, 512, 4),
    "F5-TTS Small": Sizes("dit", 768, 18, 12, 2, 512, 4),
    "E2-TTS Base": Sizes("unett", 1024, 24, 16, 4, 100, 0),
    "E2-TTS Small": Sizes("unett", 768, 20, 12, 4, 100, 0),
})  # fmt: skip
"""The sizes that the library has configurations for; of any vocabulary."""


def published_as(sizes: Sizes) -> str | None:
    """Which of the published ones it is, whatever its vocabulary: `F5-TTS Base`, …"""
    known = replace(sizes, vocabulary=0)
    return next((name for name, one in PUBLISHED.items() if one == known), None)


def title(sizes: Sizes) -> str:
    """As people know it: `F5-TTS Base (DiT 1024×22, text 512)`."""
    family = "F5-TTS" if sizes.family == "dit" else "E2-TTS"
    return f"{published_as(sizes) or f'{family} of its own size'} ({sizes.backbone})"


def differences(sizes: Sizes, wanted: Sizes) -> list[tuple[str, str, str]]:
    """Where two models differ, in words: what, in this one, in the wanted one. Vocabularies may differ."""
    own, others = _described(sizes), _described(replace(wanted, vocabulary=sizes.vocabulary))
    return [(what, own[what], others[what]) for what in own if own[what] != others[what]]


def _described(sizes: Sizes) -> dict[str, str]:
    backbone, layers = ("DiT", "blocks") if sizes.family == "dit" else ("UNetT", "layers")
    return {
        "backbone": f"{backbone}, {sizes.depth} {layers}, {sizes.dim} wide",
        "text embedding": f"[{sizes.vocabulary + 1}, {sizes.text_dim}]",
        "input": f"[{sizes.dim}, {2 * sizes.n_mels + sizes.text_dim}]",
        "text convolutions": str(sizes.conv_layers or "none"),
        "attention": f"{sizes.heads} heads of {sizes.dim_head}{', qk_norm' * sizes.qk_norm}",
        "feed-forward": f"{int(sizes.dim * sizes.ff_mult)} wide",
        "long skip": "yes" if sizes.long_skip_connection else "none",
    }


def sizes(tensors: Tensors) -> Sizes | None:
    """Read the sizes of a model from its shapes.

    Args:
        tensors: By the library's names.

    Returns:
        None when the text embedding or the input projection is no table, or there is no layer.
    """
    words, projection = _shape(tensors, EMBEDDING), _shape(tensors, INPUT)
    family = "dit" if any(name.startswith(_LAYERS["dit"]) for name in tensors) else "unett"
    layers = _LAYERS[family]
    depth = _count(tensors, layers)
    if len(words) != 2 or len(projection) != 2 or not depth:
        return None
    (rows, text_dim), dim = words, projection[0]
    attention = [f"{layers}{n}.{_ATTENTION[family]}" for n in range(depth)]
    feed_forward = (f"{layers}{n}.{_FEED_FORWARD[family]}.ff.0.0.weight" for n in range(depth))
    rotary = _shape(tensors, "transformer.rotary_embed.inv_freq")
    norms = _rows(tensors, (f"{name}.q_norm.weight" for name in attention))
    head = 2 * rotary[0] if len(rotary) == 1 and rotary[0] else _most(norms) or _HEAD
    mels = _rows(tensors, iter(("transformer.proj_out.weight", "transformer.proj_out.bias")))
    return Sizes(
        family,
        dim,
        depth if family == "dit" else depth + depth % 2,  # a U-Net has as many layers down as up
        heads=_most(_rows(tensors, (f"{name}.to_q.weight" for name in attention))) // head,
        ff_mult=_multiple(_most(_rows(tensors, feed_forward)), dim),
        text_dim=text_dim,
        conv_layers=_count(tensors, "transformer.text_embed.text_blocks."),
        vocabulary=max(rows - 1, 0),
        n_mels=_most([max(projection[1] - text_dim, 0) // 2, *mels]),
        dim_head=head,
        qk_norm=bool(norms),
        long_skip_connection="transformer.long_skip_connection.weight" in tensors,
    )


def _shape(tensors: Tensors, name: str) -> Shape:
    return tensors[name].shape if name in tensors else ()


def _count(tensors: Tensors, prefix: str) -> int:
    """One more than the highest number that follows the prefix in a name; at most 1000."""
    numbers = (name[len(prefix) :].partition(".")[0] for name in tensors if name.startswith(prefix))
    return 1 + max((int(number) for number in numbers if _LAYER_NUMBER.fullmatch(number)), default=-1)


def _rows(tensors: Tensors, names: Iterator[str]) -> list[int]:
    """Rows of those that are there."""
    return [shape[0] for name in names if (shape := _shape(tensors, name))]


def _most(sizes: list[int]) -> int:
    """What most of them are, so that a single wrong part is what does not fit; the first of several, 0 for none."""
    return Counter(sizes).most_common(1)[0][0] if sizes else 0


def _multiple(inner: int, dim: int) -> float:
    """The factor by which the library comes to this width, which it rounds down."""
    if not dim:
        return 0
    return inner // dim if inner % dim == 0 else (inner + 0.5) / dim


# --- every tensor ----------------------------------------------------------------------------------------------------


def expected(sizes: Sizes) -> dict[str, Shape]:
    """Every tensor that a model of these sizes has, those that are `OPTIONAL` included."""
    table: dict[str, Shape] = {"transformer.rotary_embed.inv_freq": (sizes.dim_head // 2,)}
    for part in (_time(sizes), _text(sizes), _input(sizes), _layers(sizes), _output(sizes)):
        table |= part
    return table


def joints(sizes: Sizes) -> Iterator[str]:
    """What joins the layers of a U-Net on its way up to those on its way down: `skip_connect_type` `concat`."""
    if sizes.family == "unett":
        yield from (f"{_LAYERS['unett']}{n}.0.weight" for n in range(sizes.depth // 2, sizes.depth))


def _linear(name: str, rows: int, *columns: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, *columns)
    yield f"{name}.bias", (rows,)


def _time(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    yield from _linear("transformer.time_embed.time_mlp.0", sizes.dim, _TIME)
    yield from _linear("transformer.time_embed.time_mlp.2", sizes.dim, sizes.dim)


def _text(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    """The embedding, and ConvNeXt-V2 blocks."""
    width, inner = sizes.text_dim, sizes.text_dim * _TEXT_WIDENING
    yield EMBEDDING, (sizes.vocabulary + 1, width)
    for n in range(sizes.conv_layers):
        block = f"transformer.text_embed.text_blocks.{n}"
        yield from _linear(f"{block}.dwconv", width, 1, _TEXT_KERNEL)
        yield from _linear(f"{block}.norm", width)
        yield from _linear(f"{block}.pwconv1", inner, width)
        yield f"{block}.grn.gamma", (1, 1, inner)
        yield f"{block}.grn.beta", (1, 1, inner)
        yield from _linear(f"{block}.pwconv2", width, inner)


def _input(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    """Noise, recording and text side by side, and a convolution that knows places."""
    yield from _linear("transformer.input_embed.proj", sizes.dim, 2 * sizes.n_mels + sizes.text_dim)
    for n in (0, 2):
        yield from _linear(
            f"transformer.input_embed.conv_pos_embed.conv1d.{n}", sizes.dim, sizes.dim // _GROUPS, _POSITIONS
        )


def _layers(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    dim = sizes.dim
    for n in range(sizes.depth):
        layer = f"{_LAYERS[sizes.family]}{n}"
        if sizes.family == "dit":
            yield from _linear(f"{layer}.attn_norm.linear", 6 * dim, dim)
        else:
            yield f"{layer}.1.g", (dim,)
            yield f"{layer}.3.g", (dim,)
        yield from _attention(f"{layer}.{_ATTENTION[sizes.family]}", sizes)
        inner = int(dim * sizes.ff_mult)
        yield from _linear(f"{layer}.{_FEED_FORWARD[sizes.family]}.ff.0.0", inner, dim)
        yield from _linear(f"{layer}.{_FEED_FORWARD[sizes.family]}.ff.2", dim, inner)
    yield from ((name, (dim, 2 * dim)) for name in joints(sizes))


def _attention(name: str, sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    inner = sizes.heads * sizes.dim_head
    for projection in ("to_q", "to_k", "to_v"):
        yield from _linear(f"{name}.{projection}", inner, sizes.dim)
    yield from _linear(f"{name}.to_out.0", sizes.dim, inner)
    if sizes.qk_norm:
        yield f"{name}.q_norm.weight", (sizes.dim_head,)
        yield f"{name}.k_norm.weight", (sizes.dim_head,)


def _output(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    if sizes.family == "dit":
        yield from _linear("transformer.norm_out.linear", 2 * sizes.dim, sizes.dim)
    else:
        yield "transformer.norm_out.g", (sizes.dim,)
    if sizes.long_skip_connection:
        yield "transformer.long_skip_connection.weight", (sizes.dim, 2 * sizes.dim)
    yield from _linear("transformer.proj_out", sizes.n_mels, sizes.dim)
