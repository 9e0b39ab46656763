"""Errors of engines.

    EngineError                rendering failed; retried with a new worker
    ├── EngineMissing          the library or a model is not installed; not retried
    ├── RequestRefused         the engine does not support the speaker, language or setting; not retried
    │   └── CheckpointRefused  it can't load the checkpoint; the base model is used instead if the job allows that
    ├── BadAudio               it returned nothing, NaN, or silence for text that has words
    └── OutOfMemory            a single chunk does not fit into the device's memory

Each class has a code, for the manifest, and states whether a retry is worth it. Each error has a hint: a sentence on
what to do.
"""

from __future__ import annotations

import errno

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN})
"""Too many open files or processes: a temporary problem of the machine, not of a job."""


class EngineError(Exception):
    """Rendering failed.

    Args:
        message: What went wrong; a clause without a full stop.
        hint: What to do about it; None for the hint of the class.
    """

    code = "engine_failed"
    retryable = True
    hint = "See the daemon's log for the engine's own messages; `voicespool doctor` checks the engine."

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class EngineMissing(EngineError):
    code = "engine_missing"
    retryable = False
    hint = "`voicespool engines` shows how to install it."


class RequestRefused(EngineError):
    code = "engine_refused"
    retryable = False
    hint = "`voicespool engines` lists what each engine supports."


class CheckpointRefused(RequestRefused):
    code = "checkpoint_refused"


class BadAudio(EngineError):
    code = "engine_bad_audio"
    hint = "Change the text or the settings. If it happens with every text, check the checkpoint."


class OutOfMemory(EngineError):
    code = "out_of_memory"
    hint = "Free memory on the device, or allow the CPU with `device: {fallback_cpu: true}`."
