"""An F5-TTS or E2-TTS checkpoint as a model ready to speak: network and vocoder, and batches made for them."""

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
from engines.f5.net.batch import Given
from engines.f5.net.flow import Course, sample
from engines.modelfiles.tensors import Entry
from engines.torch.bigvgan import BigVGAN
from engines.torch.mel import ReferenceMel
from engines.torch.source import WeightSource
from engines.torch.vocos import Vocos

_VOCODERS: Mapping[str, type[Vocos] | type[BigVGAN]] = {"vocos": Vocos, "bigvgan": BigVGAN}
MAX_ROWS = {"cpu": 2048, "cuda": 32768}
"""Of a batch, frames of both passes: with so many the device is busy, and more would only be later."""


@dataclass(frozen=True, slots=True)
class F5Files:
    """What a model is made of.

    Attributes:
        checkpoint: The weights.
        tensors: Its entries by the library's names, as `engines.checkpoints.inspection.inspect` found them whole.
        sizes: As it found them.
        vocoder: The folder of the vocoder.
        kind: Which one it is, `vocos` or `bigvgan`.
    """

    checkpoint: Path
    tensors: Mapping[str, Entry]
    sizes: Sizes
    vocoder: Path
    kind: str = "vocos"


@dataclass(frozen=True, slots=True)
class Request:
    """One chunk to speak.

    Attributes:
        key: Comes back with the sound.
        reference: The voice.
        symbols: Text of the recording and text to speak, int64 [t]: numbers of symbols in the vocabulary.
        frames: Length of recording and speech together, in frames of 256 samples at 24 kHz.
        course: How the sound is made.
        seed: Of its noise.
    """

    key: int
    reference: ReferenceMel
    symbols: Tensor
    frames: int
    course: Course
    seed: int

    @property
    def given(self) -> Given:
        """As long as asked for, and at least as long as recording and text, as the library has it."""
        mel = self.reference.mel
        return Given(mel, self.symbols, max(self.frames, len(mel) + 1, len(self.symbols) + 1))


class F5Model:
    """A loaded checkpoint.

    Attributes:
        backbone, vocoder: Its parts.
        rate_hz, hop: Of the sound, and of the frames of its mel.
    """

    def __init__(self, files: F5Files, device: str, dtype: torch.dtype, vocoder_device: str | None = None) -> None:
        """Load.

        Args:
            dtype: Precision of the matrices.
            vocoder_device: Where the vocoder is, if not beside the network: for cards with little memory, `cpu`.

        Raises:
            RequestRefused: a file holds what is no model.
        """
        where = torch.device(device)
        self.backbone = Backbone(WeightSource(files.checkpoint, files.tensors, where, dtype, ROOT), files.sizes)
        self.vocoder = _VOCODERS[files.kind](files.vocoder, torch.device(vocoder_device or device))
        self._most_rows = MAX_ROWS.get(where.type, MAX_ROWS["cpu"])
        self.rate_hz, self.hop = self.vocoder.shape.rate_hz, self.vocoder.shape.hop

    @torch.inference_mode()
    def render(
        self, requests: Sequence[Request], flags: Flags, budget_bytes: int
    ) -> Iterator[tuple[int, Tensor] | None]:
        """Speak, in the order given.

        Args:
            budget_bytes: What batches may take; a single request is tried in any case.

        Yields:
            Key and sound, float32 [samples] on the CPU, of each request as soon as it is done; None as a sign of life.

        Raises:
            torch.OutOfMemoryError, RuntimeError: Memory was too small even for one request alone. What was yielded
                stays good.
        """
        waiting = list(self._batches(requests, budget_bytes))
        while waiting:
            batch = waiting.pop(0)
            try:
                sounds = yield from self._speak(batch, flags)
            except Exception as error:
                if len(batch) == 1 or not runtime.is_out_of_memory(error):
                    raise
                middle = len(batch) // 2
                waiting[:0] = batch[:middle], batch[middle:]
                runtime.release(str(self.backbone.device))
            else:
                yield from zip((one.key for one in batch), sounds, strict=True)

    def _speak(self, batch: Sequence[Request], flags: Flags) -> Generator[None, None, list[Tensor]]:
        given = [one.given for one in batch]
        mels = yield from sample(self.backbone, given, [one.seed for one in batch], batch[0].course, flags)
        # For Vocos the last frame of the recording is the first of the speech, as the library has it.
        spoken = [mel[one.reference.hops :] for mel, one in zip(mels, batch, strict=True)]
        return [(sound * one.reference.gain).cpu() for sound, one in zip(self.vocoder(spoken), batch, strict=True)]

    def request_bytes(self, request: Request) -> int:
        """The most memory of the network's device that a request takes in a batch."""
        frames = request.given.frames
        needed = self.backbone.bytes_for(frames, guided=request.course.is_guided)
        if self.vocoder.device != self.backbone.device:
            return needed
        return max(needed, self.vocoder.bytes_for(frames - request.reference.hops))

    def _batches(self, requests: Sequence[Request], budget_bytes: int) -> Iterator[list[Request]]:
        """Neighbours that go the same course, as many as are worth it and fit."""
        batch: list[Request] = []
        rows = size = 0
        for one in requests:
            own_rows, own_size = one.given.frames * (2 if one.course.is_guided else 1), self.request_bytes(one)
            fits = rows + own_rows <= self._most_rows and size + own_size <= budget_bytes
            if batch and not (fits and one.course == batch[0].course):
                yield batch
                batch, rows, size = [], 0, 0
            batch.append(one)
            rows, size = rows + own_rows, size + own_size
        if batch:
            yield batch
