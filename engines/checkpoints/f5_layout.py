"""Names and shapes of the tensors of F5-TTS and E2-TTS models, as f5-tts 1.1 builds them.

The sizes of a model are read from the shapes in its file, so a model loads without its training configuration. All
other shapes follow from the sizes, so an inconsistent file is recognised by its header.
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
"""Mel bands of the published F5-TTS and E2-TTS models, and of their vocoders."""
ROOT = "transformer."
EMBEDDING = "transformer.text_embed.text_embed.weight"
INPUT = "transformer.input_embed.proj.weight"
OPTIONAL = frozenset({"transformer.rotary_embed.inv_freq"})
"""Tensors that can be computed from the sizes; a file may lack them."""

_LAYER_NUMBER = re.compile("[0-9]{1,3}")
_DIM_HEAD = 64  # the library's default; overridden by the shape of rotary_embed.inv_freq or of q_norm
_FREQ_EMBED_DIM = 256  # of TimestepEmbedding
_CONV_POS_GROUPS, _CONV_POS_KERNEL = 16, 31  # of ConvPositionEmbedding
_CONVNEXT_KERNEL, _CONVNEXT_MULT = 7, 2  # of ConvNeXtV2Block in the text embedding
_LAYERS = {"dit": "transformer.transformer_blocks.", "unett": "transformer.layers."}
_ATTENTION = {"dit": "attn", "unett": "2"}
_FEED_FORWARD = {"dit": "ff", "unett": "4"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model, named as the arguments of `f5_tts.model.backbones.dit.DiT` and `unett.UNetT`.

    Attributes:
        family: `dit` (F5-TTS) or `unett` (E2-TTS).
        dim: Channels of the residual stream.
        depth: Transformer blocks.
        heads: Attention heads.
        dim_head: Channels of a head.
        ff_mult: The feed-forward network has `int(dim * ff_mult)` channels.
        text_dim: Channels of the text embedding; the library's default is n_mels.
        conv_layers: ConvNeXt V2 blocks in the text embedding.
        vocabulary: Symbols, the library's `text_num_embeds`; the embedding has one row more, for the filler token.
        n_mels: Mel bands, the library's `mel_dim`.
        qk_norm: Whether queries and keys have an RMS norm (`qk_norm: rms_norm`).
        long_skip_connection: Whether a DiT has a skip connection from its input to its output.
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
    dim_head: int = _DIM_HEAD
    qk_norm: bool = False
    long_skip_connection: bool = False

    @property
    def backbone(self) -> str:
        """For messages: `DiT 1024×22, text 512`."""
        text = f", text {self.text_dim}" if self.text_dim != self.n_mels or self.conv_layers else ""
        also = ", qk_norm" * self.qk_norm + ", long skip" * self.long_skip_connection
        return f"{'DiT' if self.family == 'dit' else 'UNetT'} {self.dim}×{self.depth}{text}{also}"


PUBLISHED: Mapping[str, Sizes] = MappingProxyType({
    "F5-TTS Base": Sizes("dit", 1024, 22, 16, 2, 512, 4),
    "F5-TTS Small": Sizes("dit", 768, 18, 12, 2, 512, 4),
    "E2-TTS Base": Sizes("unett", 1024, 24, 16, 4, 100, 0),
    "E2-TTS Small": Sizes("unett", 768, 20, 12, 4, 100, 0),
})  # fmt: skip
"""Sizes of the configurations in f5-tts, without their vocabulary."""


def published_as(sizes: Sizes) -> str | None:
    """Name of the published model of these sizes, with any vocabulary: `F5-TTS Base`, …"""
    wanted = replace(sizes, vocabulary=0)
    return next((name for name, published in PUBLISHED.items() if published == wanted), None)


def title(sizes: Sizes) -> str:
    """For messages: `F5-TTS Base (DiT 1024×22, text 512)`."""
    family = "F5-TTS" if sizes.family == "dit" else "E2-TTS"
    return f"{published_as(sizes) or f'{family} of custom size'} ({sizes.backbone})"


def differences(sizes: Sizes, wanted: Sizes) -> list[tuple[str, str, str]]:
    """Differences from wanted sizes, apart from the vocabulary: what differs, here, and as wanted."""
    found, expected = _described(sizes), _described(replace(wanted, vocabulary=sizes.vocabulary))
    return [(what, found[what], expected[what]) for what in found if found[what] != expected[what]]


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
    """Read the sizes of a model from the shapes of its tensors.

    Args:
        tensors: By the library's names.

    Returns:
        None if the text embedding or the input projection is not a matrix, or there is no block.
    """
    embedding, projection = _shape(tensors, EMBEDDING), _shape(tensors, INPUT)
    family = "dit" if any(name.startswith(_LAYERS["dit"]) for name in tensors) else "unett"
    layers = _LAYERS[family]
    depth = _count(tensors, layers)
    if len(embedding) != 2 or len(projection) != 2 or not depth:
        return None
    (rows, text_dim), dim = embedding, projection[0]
    attention = [f"{layers}{n}.{_ATTENTION[family]}" for n in range(depth)]
    feed_forward = (f"{layers}{n}.{_FEED_FORWARD[family]}.ff.0.0.weight" for n in range(depth))
    rotary = _shape(tensors, "transformer.rotary_embed.inv_freq")
    q_norms = _rows(tensors, (f"{name}.q_norm.weight" for name in attention))
    dim_head = 2 * rotary[0] if len(rotary) == 1 and rotary[0] else _most_common(q_norms) or _DIM_HEAD
    mel_rows = _rows(tensors, iter(("transformer.proj_out.weight", "transformer.proj_out.bias")))
    return Sizes(
        family,
        dim,
        depth if family == "dit" else depth + depth % 2,  # a U-Net has pairs of layers; one may be missing in the file
        heads=_most_common(_rows(tensors, (f"{name}.to_q.weight" for name in attention))) // dim_head,
        ff_mult=_multiple(_most_common(_rows(tensors, feed_forward)), dim),
        text_dim=text_dim,
        conv_layers=_count(tensors, "transformer.text_embed.text_blocks."),
        vocabulary=max(rows - 1, 0),
        n_mels=_most_common([max(projection[1] - text_dim, 0) // 2, *mel_rows]),
        dim_head=dim_head,
        qk_norm=bool(q_norms),
        long_skip_connection="transformer.long_skip_connection.weight" in tensors,
    )


def _shape(tensors: Tensors, name: str) -> Shape:
    return tensors[name].shape if name in tensors else ()


def _count(tensors: Tensors, prefix: str) -> int:
    """One more than the highest number that follows the prefix in a name; at most 1000."""
    numbers = (name[len(prefix) :].partition(".")[0] for name in tensors if name.startswith(prefix))
    return 1 + max((int(number) for number in numbers if _LAYER_NUMBER.fullmatch(number)), default=-1)


def _rows(tensors: Tensors, names: Iterator[str]) -> list[int]:
    """First dimension of each of these tensors that is there."""
    return [shape[0] for name in names if (shape := _shape(tensors, name))]


def _most_common(sizes: list[int]) -> int:
    """The most common size, so that a single wrong tensor is reported and not all others; 0 for none."""
    return Counter(sizes).most_common(1)[0][0] if sizes else 0


def _multiple(inner: int, dim: int) -> float:
    """A factor with int(dim * factor) == inner, as the library rounds."""
    if not dim:
        return 0
    return inner // dim if inner % dim == 0 else (inner + 0.5) / dim  # half a channel more, for int() to round down


# --- every tensor ----------------------------------------------------------------------------------------------------


def expected(sizes: Sizes) -> dict[str, Shape]:
    """Names and shapes of all tensors of a model of these sizes, the `OPTIONAL` ones included."""
    shapes: dict[str, Shape] = {"transformer.rotary_embed.inv_freq": (sizes.dim_head // 2,)}
    for part in (_time_embed(sizes), _text_embed(sizes), _input_embed(sizes), _blocks(sizes), _output(sizes)):
        shapes |= part
    return shapes


def skip_projections(sizes: Sizes) -> Iterator[str]:
    """Names of the skip projections of a UNetT (`skip_connect_type: concat`), one in each layer of the second half."""
    if sizes.family == "unett":
        yield from (f"{_LAYERS['unett']}{n}.0.weight" for n in range(sizes.depth // 2, sizes.depth))


def _linear(name: str, rows: int, *columns: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, *columns)
    yield f"{name}.bias", (rows,)


def _time_embed(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    yield from _linear("transformer.time_embed.time_mlp.0", sizes.dim, _FREQ_EMBED_DIM)
    yield from _linear("transformer.time_embed.time_mlp.2", sizes.dim, sizes.dim)


def _text_embed(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    """`TextEmbedding`: the embedding and `ConvNeXtV2Block`s."""
    text_dim, inner = sizes.text_dim, sizes.text_dim * _CONVNEXT_MULT
    yield EMBEDDING, (sizes.vocabulary + 1, text_dim)
    for n in range(sizes.conv_layers):
        block = f"transformer.text_embed.text_blocks.{n}"
        yield from _linear(f"{block}.dwconv", text_dim, 1, _CONVNEXT_KERNEL)
        yield from _linear(f"{block}.norm", text_dim)
        yield from _linear(f"{block}.pwconv1", inner, text_dim)
        yield f"{block}.grn.gamma", (1, 1, inner)
        yield f"{block}.grn.beta", (1, 1, inner)
        yield from _linear(f"{block}.pwconv2", text_dim, inner)


def _input_embed(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    """`InputEmbedding`: the projection of cat([x, cond, text_embed]), and `ConvPositionEmbedding`."""
    yield from _linear("transformer.input_embed.proj", sizes.dim, 2 * sizes.n_mels + sizes.text_dim)
    for n in (0, 2):
        yield from _linear(
            f"transformer.input_embed.conv_pos_embed.conv1d.{n}",
            sizes.dim,
            sizes.dim // _CONV_POS_GROUPS,
            _CONV_POS_KERNEL,
        )


def _blocks(sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    """`DiTBlock`s, or layers of a `UNetT` (skip projection 0, norms 1 and 3, attention 2, feed-forward network 4)."""
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
    yield from ((name, (dim, 2 * dim)) for name in skip_projections(sizes))


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
