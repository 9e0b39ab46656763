"""Evaluations of the network recorded as CUDA graphs, for batches that are computed faster than they are started.

One evaluation is some hundred kernels. To start them one by one takes the computer longer than a fast card needs for a
sentence; a graph starts them all at once. But a graph is good for batches of one shape, and texts have any length: so
small batches are filled up, to one of a few shapes, with sequences that nobody hears. No sequence sees another, so that
changes nothing for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engines.f5.net.batch import Given, PreparedBatch

MAX_ROWS = 8192
"""Of a batch, frames of all passes: with more, the card has more to do than the computer."""
_ROWS = 128  # the frames of a filled batch are a multiple of so many
_MAX_KEPT = 8  # graphs, which take memory

Evaluation = Callable[[Tensor, Tensor], Tensor]
"""`Backbone.velocity` of one batch: noise and a moment -> velocity, which is good until the next call."""


def filled(batch: Sequence[Given], passes: int) -> list[Given]:
    """A batch; if it is small, with sequences behind it up to a power of two of them and a multiple of 128 frames."""
    frames, count = sum(one.frames for one in batch), 1 << len(batch).bit_length()
    added = count - len(batch)
    filling = added + -(frames + added) % _ROWS
    if passes * (frames + filling) > MAX_ROWS:
        return list(batch)
    first = batch[0]
    nothing = replace(first, mel=first.mel[:0], symbols=first.symbols[:0], frames=1)
    return [*batch, *[nothing] * (added - 1), replace(nothing, frames=1 + filling - added)]


class Graphs:
    """Those of the shapes that came more than once; of these the ones used last.

    Args:
        velocity: `Backbone.velocity`.
    """

    def __init__(self, velocity: Callable[[Tensor, PreparedBatch, Tensor], Tensor]) -> None:
        self._velocity = velocity
        self._seen: set[tuple[int, ...]] = set()
        self._kept: dict[tuple[int, ...], _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()  # one for all, as one runs at a time

    def evaluation(self, prepared: PreparedBatch) -> Evaluation:
        """How to evaluate the network for a batch, until the next batch."""
        shape = prepared.shape
        if shape not in self._seen or len(prepared.fixed) > MAX_ROWS:
            self._seen.add(shape)  # what a card loads when a kernel is first used can't be recorded
            return lambda noise, moment: self._velocity(noise, prepared, moment)
        if shape in self._kept:
            graph = self._kept.pop(shape)
            graph.load(prepared.tensors)
        else:
            graph = _Graph(lambda noise, moment: self._velocity(noise, prepared, moment), prepared.tensors, self._pool)
        self._kept[shape] = graph
        if len(self._kept) > _MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        return graph


class _Graph:
    """One graph, with the places in memory that it reads.

    Args:
        evaluation: What is recorded when it is first called.
        tensors: The places of all that differs between batches of its shape.
    """

    def __init__(self, evaluation: Evaluation, tensors: Sequence[Tensor], pool: Any) -> None:
        self._evaluation, self._tensors, self._pool = evaluation, tensors, pool
        self._graph: torch.cuda.CUDAGraph | None = None

    def load(self, tensors: Sequence[Tensor]) -> None:
        """Another batch."""
        for place, tensor in zip(self._tensors, tensors, strict=True):
            place.copy_(tensor)

    def __call__(self, noise: Tensor, moment: Tensor) -> Tensor:
        if self._graph is None:
            self._noise, self._moment = noise.clone(), moment.clone()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                self._made = self._evaluation(self._noise, self._moment)
            self._graph = graph
        self._noise.copy_(noise)
        self._moment.copy_(moment)
        self._graph.replay()
        return self._made
