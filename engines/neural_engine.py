"""The base class of engines with a torch model: loading, rendering, fallbacks when memory runs out, digests.

When memory runs out, an engine first makes its batches smaller, down to one chunk. If that is not enough, or if the
model itself does not fit, this class loads the model again with the profile `low_vram`, and then on the CPU if the
configuration allows it. Chunks that are done stay done. Each fallback adds a warning to the manifest.
"""

from __future__ import annotations

import gc
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol, cast

from engines.base import Chunk, ChunkSource, Device, EngineInfo, Rendered
from engines.checkpoints import inspection
from engines.checkpoints.inspection import Checkpoint
from engines.device import runtime
from engines.device.runtime import Runtime
from engines.errors import EngineError, OutOfMemory, RequestRefused


class SpeechModel(Protocol):
    """A loaded model with its voices."""

    def speak(self, chunks: ChunkSource) -> Iterator[Rendered | None]:
        """Render chunks, as `Engine.render` does.

        Raises:
            OutOfMemory: a single chunk does not fit into the memory of the device.
        """


@dataclass(frozen=True, slots=True)
class Opened:
    """What `NeuralEngine.open` returns.

    Attributes:
        speech: The model.
        facts: For the manifest, with the key `warnings`.
        path: The checkpoint whose SHA-256 goes into the manifest.
    """

    speech: SpeechModel
    facts: Mapping[str, object]
    path: Path


class Facts(dict[str, object]):
    """Facts about the model, for manifests."""

    def __init__(self) -> None:
        super().__init__(warnings=[])

    def of_model(self, facts: Mapping[str, object], warnings: Iterable[str]) -> None:
        """Take the facts and warnings of a model that was loaded.

        Args:
            facts: Replace those of the model before.
            warnings: Added to those among the facts.
        """
        self.update(facts)
        self.warn(*warnings)

    def warn(self, *sentences: str) -> None:
        """Add sentences to `warnings`, without duplicates, in order."""
        self["warnings"] = list(dict.fromkeys([*cast("list[str]", self["warnings"]), *sentences]))


class _Unfinished:
    """A `ChunkSource` that gives chunks again if the model was lost that they had been taken for."""

    def __init__(self, chunks: ChunkSource) -> None:
        self._chunks = chunks
        self._taken: dict[int, Chunk] = {}
        self._again: deque[int] = deque()

    def take(self, most: int) -> Sequence[tuple[int, Chunk]]:
        if self._again:
            numbers = [self._again.popleft() for _ in range(min(most, len(self._again)))]
            return [(number, self._taken[number]) for number in numbers]
        taken = self._chunks.take(most)
        self._taken.update(taken)
        return taken

    def urgent(self, most: int) -> Sequence[tuple[int, Chunk]]:
        taken = () if self._again else self._chunks.urgent(most)
        self._taken.update(taken)
        return taken

    def is_done(self, number: int) -> None:
        """A chunk was returned."""
        del self._taken[number]

    def begin_again(self) -> None:
        """Give all chunks again that were taken and not returned."""
        self._again = deque(self._taken)


class NeuralEngine(ABC):
    """One instance holds one model, from `load` to `close`."""

    spares: ClassVar[bool] = False
    """Whether the profile `low_vram` saves GPU memory in every precision, not only by choosing 16 bits."""

    def __init__(self) -> None:
        self._speech: SpeechModel | None = None
        self._facts = Facts()
        self._checkpoint: Path | None = None
        self._device = Device()
        self._fallbacks: list[str] = []
        self._digest: threading.Thread | None = None

    @classmethod
    @abstractmethod
    def info(cls) -> EngineInfo:
        """Languages, options and version; how to install it if it is missing."""

    @abstractmethod
    def open(self, checkpoint: Path | None, device: Device) -> Opened:
        """Load a checkpoint on a device, without fallbacks.

        Args:
            checkpoint: None for the base model.
            device: As configured, or a fallback.

        Raises:
            EngineMissing, RequestRefused, OutOfMemory: as in `load`.
        """

    def load(self, checkpoint: Path | None, device: Device) -> Mapping[str, object]:
        """Load a checkpoint or the base model, with the fallbacks that the configuration allows.

        Args:
            checkpoint: None for the base model.
            device: As configured.

        Returns:
            Facts for the manifest. Rendering may change them: read them afterwards.

        Raises:
            EngineMissing: the library, the base model or the GPU asked for is missing.
            RequestRefused: the checkpoint or the precision can't be used.
            OutOfMemory: the model does not fit, not even with the fallbacks.
        """
        if self._speech is not None:
            self.close()
        self._checkpoint, self._device, self._facts, self._fallbacks = checkpoint, device, Facts(), []
        self._note_digest(self._open())
        return self._facts

    def _open(self) -> Path:
        """Load on the configured device, or on the first fallback with enough memory.

        Returns:
            The checkpoint.
        """
        while True:
            try:
                opened = self.open(self._checkpoint, self._device)
            except OutOfMemory as error:
                full_device = self._fall_back(error)
            else:
                break
            # Outside of `except`: the traceback would keep alive what had been loaded.
            runtime.release(full_device)
        self._speech = opened.speech
        self._facts.of_model(opened.facts, self._fallbacks)
        return opened.path

    def render(self, chunks: ChunkSource) -> Iterator[Rendered | None]:
        """Render chunks in batches.

        Yields:
            As `Engine.render`.

        Raises:
            EngineError: no model is loaded.
            OutOfMemory: a single chunk does not fit, not even with the fallbacks.
        """
        if self._speech is None:
            raise EngineError(f"{self.info().name} was asked to render before it was loaded")
        unfinished = _Unfinished(chunks)
        while True:
            assert self._speech is not None  # noqa: S101 - _open() sets it
            try:
                for rendered in self._speech.speak(unfinished):
                    if rendered is not None:
                        unfinished.is_done(rendered[0])
                        self._complete_facts()
                    yield rendered
            except OutOfMemory as error:
                full_device = self._fall_back(error)
            else:
                break
            # The model must be gone before the next is loaded: both would not fit.
            self._speech = None
            runtime.release(full_device)
            self._open()
            unfinished.begin_again()
        self._complete_facts()
        runtime.trim()

    def _complete_facts(self) -> None:
        if self._digest is not None:
            self._digest.join()

    def _fall_back(self, error: OutOfMemory) -> str:
        """Choose the next fallback, and note a warning.

        Returns:
            The device whose memory was too small.

        Raises:
            OutOfMemory: `error`, if there is no fallback.
        """
        device = self._device
        low_vram, here = replace(device, profile="low_vram"), runtime.choose(device)
        # The profile only helps if the engine has savings of its own, or if it changes the precision.
        if here.device != "cpu" and low_vram != device and (self.spares or runtime.choose(low_vram) != here):
            self._device, fallback = low_vram, "continued with the profile low_vram"
        elif here.device != "cpu" and device.fallback_cpu:
            precision = "auto" if device.precision == "float16" else device.precision  # CPUs have no fast float16
            self._device = replace(device, name="cpu", precision=precision)
            fallback = "continued on the CPU (device.fallback_cpu)"
        else:
            raise error
        self._fallbacks.append(f"{error.message}; {fallback}")
        return here.device

    def close(self) -> None:
        """Drop the model and release its memory."""
        device = str(self._facts.get("device", "cpu"))
        self._speech = None
        if self._digest is not None:
            self._digest.join()
            self._digest = None
        runtime.release(device)

    def _note_digest(self, path: Path) -> None:
        """Compute the SHA-256 of the checkpoint in a thread: for 5 GB it takes seconds, and rendering need not wait."""
        facts = self._facts

        def note() -> None:
            try:
                facts["sha256"] = inspection.digest(path)
            except OSError as error:
                facts.warn(f"the SHA-256 of {path.name} is not known: {error}")

        self._digest = threading.Thread(target=note, name="digest", daemon=True)
        self._digest.start()


def prepare(device: Device) -> Runtime:
    """Set up torch and choose the device. Call it before the library of an engine is imported.

    Raises:
        EngineMissing, RequestRefused: as in `runtime.choose` and `runtime.prepare_torchaudio`.
    """
    runtime.quiet()
    runtime.prepare_torchaudio()
    here = runtime.choose(device)
    import torch

    torch.set_num_threads(runtime.threads())
    # Imported modules live on: without this, garbage collection scans them again and again, 1/3 of a load's time.
    gc.freeze()
    return here


def accept(path: Path, engine: str, kind: str, models: Path | None) -> Checkpoint:
    """Inspect a checkpoint that an engine is asked to load.

    Args:
        path: The checkpoint.
        engine: Name of the engine.
        kind: Name of its model, for the error message.
        models: As for `inspection.inspect`.

    Raises:
        RequestRefused: it can't be read, is for another engine, or can't be loaded.
    """
    try:
        found = inspection.inspect(path, models)
    except OSError as error:
        raise RequestRefused(
            f"the checkpoint {path.name} can't be read: {error.strerror}",
            "`voicespool checkpoints list` lists those that can be read.",
        ) from None
    if found.engine not in (None, engine):
        raise RequestRefused(
            f"{path.name} is {found.architecture}, not {kind}", "Remove `engine`: the checkpoint determines it."
        )
    if not found.loads:
        raise RequestRefused(f"the checkpoint {path.name} can't be loaded: {found.why_not}", found.cure)
    return found


@cache
def version_of(package: str, *modules: str) -> str | None:
    """The version of an installed package; None if it or one of the modules is missing.

    The modules are not imported: the daemon calls this, and must stay small.
    """
    if any(find_spec(name) is None for name in modules):
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return None
