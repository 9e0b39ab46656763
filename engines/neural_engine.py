"""What engines with a model in torch have in common: one model from `load` to `close`, its file's digest, and going on
with less when a card is too small.

Where memory runs out, engines make their batches smaller, down to one sentence. If that does not fit, or not even the
model, it is loaded anew under the profile `low_vram`, and then on the CPU, if the configuration allows it. What was
spoken by then is kept, and each step down is a warning.
"""

from __future__ import annotations

import gc
import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

from engines.base import Audio, Chunk, Device, EngineInfo
from engines.checkpoints import inspection
from engines.checkpoints.inspection import Checkpoint
from engines.device import runtime
from engines.device.runtime import Runtime
from engines.errors import EngineError, OutOfMemory, RequestRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SpeechModel(Protocol):
    """A loaded model with its voices."""

    rate_hz: int

    def speak(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, NDArray[np.float32]] | None]:
        """Index and samples of each chunk as soon as it is done; None as a sign of life.

        Raises:
            RequestRefused, OutOfMemory.
        """


@dataclass(frozen=True, slots=True)
class Opened:
    """What `NeuralEngine.open` has loaded.

    Attributes:
        speech: Ready to speak.
        facts: For the manifest; `warnings` among them.
        path: The file that a job means by its checkpoint.
    """

    speech: SpeechModel
    facts: Mapping[str, object]
    path: Path


class Facts(dict[str, object]):
    """What the manifest is told of an engine: of its model, and of the job that it is speaking."""

    def __init__(self) -> None:
        super().__init__(warnings=[])
        self._of_job: set[str] = set()

    def of_model(self, facts: Mapping[str, object], warnings: Iterable[str]) -> None:
        """A model was loaded, maybe in the middle of a job."""
        of_job = [words for words in self._warnings if words in self._of_job]
        self.update(facts)
        self.warn(*warnings, *of_job)

    def warn(self, *sentences: str) -> None:
        """Add sentences to `warnings`, each of them once."""
        self["warnings"] = list(dict.fromkeys([*self._warnings, *sentences]))

    def warn_of_job(self, sentence: str) -> None:
        """The same for what the next job is not told."""
        self._of_job.add(sentence)
        self.warn(sentence)

    def use_transcript(self, recording: Path, text: str) -> None:
        """What of a recording's transcript the job is spoken with."""
        self["transcripts"] = {**cast("dict[str, str]", self.get("transcripts", {})), str(recording): text}

    def begin_job(self) -> None:
        """Forget what was told of the job before."""
        self.pop("transcripts", None)
        self["warnings"] = [words for words in self._warnings if words not in self._of_job]
        self._of_job.clear()

    @property
    def _warnings(self) -> list[str]:
        return cast("list[str]", self["warnings"])


class NeuralEngine:
    """One instance holds one model, from `load` to `close`."""

    spares: ClassVar[bool] = False
    """Whether `low_vram` takes less of a card in whatever precision."""

    def __init__(self) -> None:
        self._speech: SpeechModel | None = None
        self._facts = Facts()
        self._checkpoint: Path | None = None
        self._device = Device()
        self._steps: list[str] = []
        self._digest: threading.Thread | None = None

    @classmethod
    @abstractmethod
    def info(cls) -> EngineInfo:
        """What it can do here; says how to install it where it is not."""

    @abstractmethod
    def open(self, checkpoint: Path | None, device: Device) -> Opened:
        """Load a checkpoint, or the base model.

        Raises:
            EngineMissing, RequestRefused, OutOfMemory.
        """

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        """Load a checkpoint, or the base model.

        Returns:
            Facts for the manifest. While chunks are rendered they may change: read them afterwards.

        Raises:
            EngineMissing: the library, the base model or the card asked for is not there.
            RequestRefused: the checkpoint can't be used; says why, and what to do.
            OutOfMemory: it does not fit.
        """
        if self._speech is not None:
            self.close()
        self._checkpoint, self._device, self._facts, self._steps = checkpoint, device, Facts(), []
        self._note_digest(self._open())
        return self._facts

    def _open(self) -> Path:
        """Load on the device, or on the first below it whose memory is large enough."""
        while True:
            try:
                opened = self.open(self._checkpoint, self._device)
            except OutOfMemory as error:
                left = self._step_down(error)
            else:
                break
            runtime.release(left)  # not sooner: an error that is being handled keeps alive what was loaded by then
        self._speech = opened.speech
        self._facts.of_model(opened.facts, self._steps)
        return opened.path

    def render(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, Audio] | None]:
        """Speak chunks, many at a time, in the order in which they get done; None is a sign of life.

        Raises:
            RequestRefused: what a chunk asks for can't be done.
            OutOfMemory: not even one chunk at a time fits.
        """
        if self._speech is None:
            raise EngineError(f"{self.info().name} was asked to speak before it was loaded")
        self._facts.begin_job()
        left = dict(enumerate(chunks))
        while True:
            try:
                yield from self._speak(left)
            except OutOfMemory as error:
                left_device = self._step_down(error)
            else:
                break
            self._speech = None
            runtime.release(left_device)
            self._open()
        if self._digest is not None:
            self._digest.join()
        runtime.trim()

    def _speak(self, left: dict[int, Chunk]) -> Iterator[tuple[int, Audio] | None]:
        """Speak what is left; what is done is taken out."""
        assert self._speech is not None  # noqa: S101 - render() looks
        numbers = list(left)
        for spoken in self._speech.speak([left[number] for number in numbers]):
            if spoken is None:
                yield None
                continue
            index, samples = spoken
            del left[numbers[index]]
            yield numbers[index], Audio(samples, self._speech.rate_hz)

    def _step_down(self, error: OutOfMemory) -> str:
        """Choose what takes less, and tell it.

        Returns:
            The device whose memory was too small.

        Raises:
            OutOfMemory: the same, where there is nothing else.
        """
        device = self._device
        low, here = replace(device, profile="low_vram"), runtime.choose(device)
        if here.device != "cpu" and low != device and (self.spares or runtime.choose(low) != here):
            self._device, told = low, "the profile low_vram went on, which takes less"
        elif here.device != "cpu" and device.fallback_cpu:
            precision = "auto" if device.precision == "float16" else device.precision  # no processor's
            self._device = replace(device, name="cpu", precision=precision)
            told = "the CPU went on, as device.fallback_cpu says"
        else:
            raise error
        self._steps.append(f"{error.message}; {told}")
        return here.device

    def close(self) -> None:
        """Give the model's memory back."""
        device = str(self._facts.get("device", "cpu"))
        self._speech = None
        if self._digest is not None:
            self._digest.join()
            self._digest = None
        runtime.release(device)

    def _note_digest(self, path: Path) -> None:
        """A file of 5 GB takes seconds to digest, once: meanwhile it can speak."""
        facts = self._facts

        def note() -> None:
            try:
                facts["sha256"] = inspection.digest(path)
            except OSError as error:
                facts.warn(f"the SHA-256 of {path.name} is not known: {error}")

        self._digest = threading.Thread(target=note, name="digest", daemon=True)
        self._digest.start()


def prepare(device: Device) -> Runtime:
    """Bring torch and its surroundings into order, and choose what to run on. Call it before a library is imported."""
    runtime.quiet()
    runtime.prepare_torchaudio()
    here = runtime.choose(device)
    import torch

    torch.set_num_threads(runtime.threads())
    gc.freeze()  # what was imported stays: going through it again and again takes a third of the time of a load
    return here


def accept(path: Path, engine: str, kind: str, models: Path | None) -> Checkpoint:
    """What a checkpoint is, if an engine can speak with it.

    Args:
        engine: Its name.
        kind: What it speaks with, for people: "no ... model".
        models: As for `inspection.inspect`.

    Raises:
        RequestRefused: it can't be read, is another engine's, or will not load; says what to do.
    """
    try:
        found = inspection.inspect(path, models)
    except OSError as error:
        raise RequestRefused(
            f"the checkpoint {path.name} can't be read: {error.strerror}",
            "`voicespool checkpoints list` shows those that can.",
        ) from None
    if found.engine not in (None, engine):
        raise RequestRefused(
            f"{path.name} is {found.architecture}, no {kind} model", "Leave `engine` out: the checkpoint decides it."
        )
    if not found.loads:
        raise RequestRefused(f"the checkpoint {path.name} will not load: {found.why_not}", found.cure)
    return found


@cache
def version_of(package: str, *modules: str) -> str | None:
    """The version of an installed package; None if it, or one of the modules that it is used with, is not there.

    The modules are looked for and not imported: the daemon asks, and must stay small.
    """
    if any(find_spec(name) is None for name in modules):
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return None
