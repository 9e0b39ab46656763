"""CUDA graphs for batches that a GPU computes faster than Python launches their kernels.

One evaluation of the network is some hundred kernels. Launching them one by one takes longer than a fast GPU needs for
a sentence; a CUDA graph launches them all at once. But a graph fits batches of one size only, and texts have any
length. So small batches are padded with dummy sequences to one of a few sizes. As no token attends to another sequence,
the other results stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engines.f5.net.batch import Conditions, PreparedBatch

MAX_FRAMES = 8192
"""Frames of a batch, in all passes: above, the GPU takes longer than the launches, and a graph gains nothing."""
_FRAMES_STEP = 128  # a padded batch has a multiple of it
_MAX_GRAPHS = 8  # each takes GPU memory

VelocityFunction = Callable[[Tensor, Tensor], Tensor]
"""`Backbone.velocity` of one batch: x and time_cond -> velocity, which is overwritten by the next call."""


def padded_for_graphs(batch: Sequence[Conditions], passes: int) -> list[Conditions]:
    """A small batch with dummy sequences after it, up to a power of two of sequences and a multiple of 128 frames.

    Args:
        batch: 1 or more sequences; returned as it is if it is too large for a graph.
        passes: 2 with classifier-free guidance, else 1.
    """
    frames, count = sum(sequence.duration for sequence in batch), 1 << len(batch).bit_length()
    dummies = count - len(batch)  # 1 or more
    dummy_frames = dummies + -(frames + dummies) % _FRAMES_STEP
    if passes * (frames + dummy_frames) > MAX_FRAMES:
        return list(batch)
    first = batch[0]
    dummy = replace(first, cond=first.cond[:0], text=first.text[:0], duration=1)
    # All dummies have one frame, and the last one the rest.
    return [*batch, *[dummy] * (dummies - 1), replace(dummy, duration=1 + dummy_frames - dummies)]


class CudaGraphs:
    """Graphs of the sizes that occurred more than once; the least recently used is dropped.

    Args:
        velocity: `Backbone.velocity`.
    """

    def __init__(self, velocity: Callable[[Tensor, PreparedBatch, Tensor], Tensor]) -> None:
        self._velocity = velocity
        self._warmed_up: set[tuple[int, ...]] = set()
        self._graphs: dict[tuple[int, ...], _CudaGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()  # one memory pool for all, as one graph runs at a time

    def velocity_function(self, prepared: PreparedBatch) -> VelocityFunction:
        """`velocity` of a batch; valid until the next call of this method."""
        key = prepared.graph_key
        if key not in self._warmed_up or len(prepared.projected_cond) > MAX_FRAMES:
            # Run once without recording: what the driver loads at a kernel's first launch can't be recorded.
            self._warmed_up.add(key)
            return lambda x, time_cond: self._velocity(x, prepared, time_cond)
        if key in self._graphs:
            graph = self._graphs.pop(key)
            graph.load(prepared.graph_inputs)
        else:
            graph = _CudaGraph(
                lambda x, time_cond: self._velocity(x, prepared, time_cond), prepared.graph_inputs, self._pool
            )
        self._graphs[key] = graph  # the last one of the dictionary is the most recently used
        if len(self._graphs) > _MAX_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return graph


class _CudaGraph:
    """One graph with its static input tensors.

    Args:
        velocity: Recorded at its first call.
        inputs: Static tensors that `velocity` reads; other batches of the same size are copied into them.
        pool: Memory pool of the graphs.
    """

    def __init__(self, velocity: VelocityFunction, inputs: Sequence[Tensor], pool: Any) -> None:
        self._velocity, self._inputs, self._pool = velocity, inputs, pool
        self._graph: torch.cuda.CUDAGraph | None = None

    def load(self, inputs: Sequence[Tensor]) -> None:
        """Copy another batch into the static tensors."""
        for static, tensor in zip(self._inputs, inputs, strict=True):
            static.copy_(tensor)

    def __call__(self, x: Tensor, time_cond: Tensor) -> Tensor:
        if self._graph is None:
            self._x, self._time_cond = x.clone(), time_cond.clone()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                self._output = self._velocity(self._x, self._time_cond)
            self._graph = graph
        self._x.copy_(x)
        self._time_cond.copy_(time_cond)
        self._graph.replay()
        return self._output
