"""The engine that stays loaded between orders."""

from __future__ import annotations

import contextlib
import gc
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from engines.base import EngineClass
from engines.errors import SHORTAGES, CheckpointRefused, EngineMissing, RequestRefused
from jobs.errors import Hold
from jobs.order import Order

if TYPE_CHECKING:
    from jobs.render.rendering import LoadedEngine


class Shortage(Hold):
    """An engine can't be loaded, since the limit on open files or processes is reached. The job is not the cause."""

    retryable = True
    hint = "Raise the limits on open files and processes, or stop the programs that use them. Work resumes by itself."


class WarmEngine:
    """The loaded engine, if any. It is closed before another is loaded."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._ready: LoadedEngine | None = None
        self._refused: tuple[tuple[object, ...], tuple[str, str]] | None = None

    def for_order(self, order: Order, engine_class: EngineClass) -> LoadedEngine:
        """The order's engine with its model, loaded if needed.

        Raises:
            Shortage: Nothing is wrong with the order.
            CheckpointRefused: The engine can't use that checkpoint. If it is refused again right after, the loaded
                engine stays, so that jobs that fall back to the base model do not load it each time.
        """
        from jobs.render.rendering import LoadedEngine

        device = order.where()
        key = (order.model, device)
        if self._ready is not None and self._key == key:
            return replace(self._ready, load_s=0.0)
        if self._refused is not None and self._refused[0] == key:
            raise CheckpointRefused(*self._refused[1])
        self.release()
        started_s = time.monotonic()
        engine = engine_class()
        gc.disable()  # imports of large libraries make millions of objects that stay: a fifth of the time
        try:
            facts = engine.load(order.checkpoint.path if order.checkpoint else None, device)
        except BaseException as error:
            with contextlib.suppress(Exception):
                engine.close()
            if isinstance(error, RequestRefused) and order.checkpoint:
                self._refused = key, (error.message, error.hint)
                raise CheckpointRefused(error.message, error.hint) from error
            if isinstance(error, OSError) and error.errno in SHORTAGES:
                raise Shortage(f"the engine {order.engine} can't be loaded: {error.strerror}") from error
            raise
        finally:
            gc.enable()
        self._key, self._ready = key, LoadedEngine(engine, facts, time.monotonic() - started_s)
        return self._ready

    def release(self) -> None:
        """Close the engine and free its memory."""
        ready, self._ready = self._ready, None
        if ready is not None:
            with contextlib.suppress(Exception):
                ready.engine.close()
            del ready
            gc.unfreeze()  # Whisper may have been loaded, and all that there was frozen, while this model was loaded
            gc.collect()


def engine_class(name: str) -> EngineClass:
    """Raises EngineMissing."""
    from engines import registry

    found = registry.engines().get(name)
    if found is None:
        raise EngineMissing(f"the engine {name!r} is not installed")
    return found
