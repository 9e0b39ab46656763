"""A loaded F5-TTS or E2-TTS checkpoint: backbone and vocoder, and the batches they compute."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engines.checkpoints.f5_layout import ROOT, Sizes
from engines.checkpoints.f5_variant import Flags
from engines.device import runtime
from engines.f5.net.backbone import Backbone
from engines.f5.net.batch import Conditions
from engines.f5.net.flow import SolverSettings, sample
from engines.modelfiles.tensors import Entry
from engines.torch.bigvgan import BigVGAN
from engines.torch.mel import ReferenceMel
from engines.torch.source import WeightSource
from engines.torch.vocos import Vocos

_VOCODERS: Mapping[str, type[Vocos] | type[BigVGAN]] = {"vocos": Vocos, "bigvgan": BigVGAN}
MAX_FRAMES = {"cpu": 2048, "cuda": 32768}
"""Frames of a batch, in all passes of classifier-free guidance: with so many the device is busy, and more would only
delay the first result.
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What requests take of a batch, or what a batch has room for.

    Attributes:
        frames: In all passes of classifier-free guidance.
        peak_bytes: Peak memory on the network's device.
    """

    frames: int
    peak_bytes: int

    def __add__(self, other: Load) -> Load:
        return Load(self.frames + other.frames, self.peak_bytes + other.peak_bytes)

    def __mul__(self, count: int) -> Load:
        return Load(self.frames * count, self.peak_bytes * count)

    def fits(self, room: Load) -> bool:
        return self.frames <= room.frames and self.peak_bytes <= room.peak_bytes

    def fills(self, room: Load) -> bool:
        """Whether nothing more fits."""
        return self.frames >= room.frames or self.peak_bytes >= room.peak_bytes


@dataclass(frozen=True, slots=True)
class F5Files:
    """The files of a model.

    Attributes:
        checkpoint: The weights.
        tensors: Its entries by the library's names, as `engines.checkpoints.inspection.inspect` has checked them.
        sizes: As read from their shapes.
        vocoder: Folder of the vocoder.
        kind: Which vocoder it is, `vocos` or `bigvgan`.
    """

    checkpoint: Path
    tensors: Mapping[str, Entry]
    sizes: Sizes
    vocoder: Path
    kind: str = "vocos"


@dataclass(frozen=True, slots=True)
class Request:
    """One chunk to render.

    Attributes:
        key: Returned with the samples.
        reference: The audio prompt.
        text: Token ids of the reference transcript and the text to speak, int64 (text_len,).
        duration: Frames of reference and speech together, of 256 samples at 24 kHz.
        solver: Settings of the ODE solver.
        seed: Of its noise.
    """

    key: int
    reference: ReferenceMel
    text: Tensor
    duration: int
    solver: SolverSettings
    seed: int

    @property
    def conditions(self) -> Conditions:
        """For the network; the duration is at least one frame more than reference and text, as in `CFM.sample`."""
        mel = self.reference.mel  # (n, n_mels)
        return Conditions(mel, self.text, max(self.duration, len(mel) + 1, len(self.text) + 1))


class F5Model:
    """A loaded checkpoint.

    Attributes:
        backbone: The network.
        vocoder: From mel spectrogram to waveform.
        rate_hz: Sample rate of the waveform.
        hop: Samples of a frame.
    """

    def __init__(self, files: F5Files, device: str, dtype: torch.dtype, vocoder_device: str | None = None) -> None:
        """Load.

        Args:
            files: Of the model.
            device: `cpu`, `mps` or `cuda:N`.
            dtype: Precision of the matrices.
            vocoder_device: Where the vocoder runs (on `device`); `cpu` saves memory of a small GPU.

        Raises:
            RequestRefused: A file is not a complete model.
        """
        where = torch.device(device)
        self.backbone = Backbone(WeightSource(files.checkpoint, files.tensors, where, dtype, ROOT), files.sizes)
        self.vocoder = _VOCODERS[files.kind](files.vocoder, torch.device(vocoder_device or device))
        self._max_frames = MAX_FRAMES.get(where.type, MAX_FRAMES["cpu"])  # mps has the limit of the CPU
        self.rate_hz, self.hop = self.vocoder.config.rate_hz, self.vocoder.config.hop

    @torch.inference_mode()
    def render(
        self, requests: Sequence[Request], flags: Flags, budget_bytes: int
    ) -> Iterator[tuple[int, Tensor] | None]:
        """Render requests in batches, each begun by the first request that is left.

        Args:
            requests: Those with the same solver settings share a batch.
            flags: Of the model's variant.
            budget_bytes: Memory for a batch; a single request is tried even if it needs more.

        Yields:
            Key and samples, float32 (samples,) on the CPU, of each request when it is done; None as a sign of life.

        Raises:
            torch.OutOfMemoryError, RuntimeError: Memory is too small for a single request. What was yielded before is
                valid.
        """
        waiting = list(self._batches(requests, budget_bytes))
        while waiting:
            batch = waiting.pop(0)
            try:
                waveforms = yield from self._render_batch(batch, flags)
            except Exception as error:
                if len(batch) == 1 or not runtime.is_out_of_memory(error):
                    raise
                # Both halves are next, before the batches that follow.
                middle = len(batch) // 2
                waiting[:0] = batch[:middle], batch[middle:]
                runtime.release(str(self.backbone.device))
            else:
                yield from zip((request.key for request in batch), waveforms, strict=True)

    def _render_batch(self, batch: Sequence[Request], flags: Flags) -> Generator[None, None, list[Tensor]]:
        conditions, seeds = [request.conditions for request in batch], [request.seed for request in batch]
        mels = yield from sample(self.backbone, conditions, seeds, batch[0].solver, flags)
        # A mel for Vocos has a frame more than hops: the last frame of the reference is decoded too, as in the library.
        generated = [mel[request.reference.hops :] for mel, request in zip(mels, batch, strict=True)]
        waveforms = self.vocoder(generated)
        return [(samples * request.reference.gain).cpu() for samples, request in zip(waveforms, batch, strict=True)]

    def request_bytes(self, request: Request) -> int:
        """Peak memory that a request adds to a batch, on the network's device."""
        frames = request.conditions.duration
        needed = self.backbone.bytes_for(frames, use_cfg=request.solver.uses_cfg)
        if self.vocoder.device != self.backbone.device:
            return needed
        return max(needed, self.vocoder.bytes_for(frames - request.reference.hops))

    def load_of(self, request: Request) -> Load:
        """What a request takes of a batch."""
        return Load(request.conditions.duration * (2 if request.solver.uses_cfg else 1), self.request_bytes(request))

    def room(self, budget_bytes: int) -> Load:
        """What a batch has room for, with this memory."""
        return Load(self._max_frames, budget_bytes)

    def first_batch(self, requests: Sequence[Request], budget_bytes: int) -> list[Request]:
        """The first request, and those after it that have the same solver settings and still fit.

        Their durations don't matter: sequences are packed, so a batch of different lengths computes no more than one
        of like lengths. What counts is how full a batch is, so one that is too long is passed over for a shorter one.

        Args:
            requests: 1 or more, most urgent first.
            budget_bytes: Memory for the batch; the first request is in it even if it needs more.
        """
        first, room = requests[0], self.room(budget_bytes)
        batch, load = [first], self.load_of(first)
        for request in requests[1:]:
            together = load + self.load_of(request)
            if request.solver == first.solver and together.fits(room):
                batch.append(request)
                load = together
        return batch

    def _batches(self, requests: Sequence[Request], budget_bytes: int) -> Iterator[list[Request]]:
        while requests:
            batch = self.first_batch(requests, budget_bytes)
            yield batch
            keys = {request.key for request in batch}
            requests = [request for request in requests if request.key not in keys]
