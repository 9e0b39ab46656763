"""What XTTS's GPT remembers of the chunks that it is decoding: keys and values, a row for each chunk.

Every row starts at position 0 and is as long as it is: there is no padding, and what lies behind a row's end is masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Number of a layer, and its queries, keys and values, each [..., channels] -> what is seen, [..., channels]."""


class Network(Protocol):
    """The layers that look at what is remembered: `xtts_gpt.Gpt`.

    Attributes:
        heads, channels, layers: How many there are.
        device, dtype: Where and in which precision.
    """

    heads: int
    channels: int
    device: torch.device
    dtype: torch.dtype

    @property
    def layers(self) -> int: ...

    def run(self, x: Tensor, attend: Attend) -> Tensor:
        """Through all layers, [..., channels] -> [..., channels]."""


class Cache:
    """Keys and values of all rows, [rows, heads, positions, channels of a head] for each layer.

    Args:
        gpt: Whose layers read and write them; in its precision, on its device.
        rows, positions: The most chunks at a time, and the most positions of one.
    """

    def __init__(self, gpt: Network, rows: int, positions: int) -> None:
        self.gpt, self.positions = gpt, positions
        shape = (rows, gpt.heads, positions, gpt.channels // gpt.heads)
        self._layers = [(_zeros(shape, gpt), _zeros(shape, gpt)) for _ in range(gpt.layers)]
        self._voice: tuple[Tensor, list[tuple[Tensor, Tensor]]] | None = None

    def move(self, source: int, target: int, length: int) -> None:
        """Put a row of so many positions in another's place."""
        for keys, values in self._layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def read_voice(self, voice: Tensor, rows: Tensor) -> None:
        """Put a voice, [1, n, channels], at the beginning of rows."""
        if self._voice is None or self._voice[0] is not voice:
            read: list[tuple[Tensor, Tensor]] = []

            def attend(_: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
                keys, values = self._split(keys), self._split(values)
                read.append((keys, values))
                return self._join(F.scaled_dot_product_attention(self._split(queries), keys, values, is_causal=True))

            self.gpt.run(voice, attend)
            self._voice = voice, read
        for (keys, values), (voice_keys, voice_values) in zip(self._layers, self._voice[1], strict=True):
            keys[rows, :, : voice.shape[1]] = voice_keys
            values[rows, :, : voice.shape[1]] = voice_values

    def read_text(self, x: Tensor, rows: Tensor, voiced: int) -> Tensor:
        """Prompts [n, p, channels] behind `voiced` positions. Shorter ones are filled up behind, where no query of
        theirs looks and their codes will overwrite it.
        """
        end = voiced + x.shape[1]
        hidden = torch.ones(x.shape[1], end, dtype=torch.bool, device=x.device).triu(voiced + 1)
        mask = self._mask(hidden)

        def attend(number: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            all_keys, all_values = self._layers[number]
            all_keys[rows, :, voiced:end] = self._split(keys)
            all_values[rows, :, voiced:end] = self._split(values)
            seen_keys, seen_values = all_keys[rows, :, :end], all_values[rows, :, :end]
            return self._join(_attend(self._split(queries), seen_keys, seen_values, mask))

        return self.gpt.run(x, attend)

    def step(self, x: Tensor, length: Tensor, positions: int) -> Tensor:
        """One code of each row, [n, channels], written at the row's own length; it sees itself and what lies before."""
        count = len(x)
        rows = torch.arange(count, device=x.device)
        places = torch.arange(positions, device=x.device)
        place = length.clamp(max=self.positions - 1)
        mask = self._mask(places > place.unsqueeze(1))[:, None, None, :]

        def attend(number: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            all_keys, all_values = self._layers[number]
            shape = (count, self.gpt.heads, -1)
            all_keys[rows, :, place] = keys.view(shape)
            all_values[rows, :, place] = values.view(shape)
            seen_keys, seen_values = all_keys[:count, :, :positions], all_values[:count, :, :positions]
            seen = _attend(queries.view(count, self.gpt.heads, 1, -1), seen_keys, seen_values, mask)
            return seen.reshape(count, -1)

        return self.gpt.run(x, attend)

    def _mask(self, hidden: Tensor) -> Tensor:
        return torch.zeros(hidden.shape, dtype=self.gpt.dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.gpt.heads, -1).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


def _zeros(shape: tuple[int, ...], gpt: Network) -> Tensor:
    """Zeros, since what a row has not written yet is masked, and NaN times nothing would still be NaN.

    On a processor their memory is taken page by page as it is written: a row may become long, and few do.
    """
    if gpt.device.type != "cpu":
        return torch.zeros(shape, dtype=gpt.dtype, device=gpt.device)
    bits = np.zeros(math.prod(shape) * gpt.dtype.itemsize, np.uint8)
    return torch.from_numpy(bits).view(gpt.dtype).view(shape)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention, [rows, heads, positions, channels of a head].

    On a processor these are plain products: in bfloat16, where the least difference grows, a longer neighbour changes
    no bit of theirs, as it does with torch's own attention. They are faster too, the keys on the left: for one position
    of each row a third in float32, and eight times in bfloat16.
    """
    if queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    scale: float = queries.shape[-1] ** -0.5
    scores = (keys @ queries.transpose(2, 3)).transpose(2, 3).float().mul_(scale).add_(mask)
    return scores.softmax(-1).to(values.dtype) @ values
