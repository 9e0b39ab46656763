"""What can go wrong in an engine.

    EngineError                a render that failed; worth another try with a fresh worker
    ├── EngineMissing          the library or a model is not installed; never retried
    ├── RequestRefused         the engine can't do what the job asks for (speaker, language, setting); never retried
    │   └── CheckpointRefused  it can't speak with the checkpoint; the base model may, if the job allows that
    ├── BadAudio               the engine returned nothing, NaN, or silence for text that has words
    └── OutOfMemory            the device's memory was too small, smaller batches tried already

Each class has a code (written to the manifest), says whether a retry is worth it, and each error carries a
hint: a sentence that tells the user what to do.
"""

from __future__ import annotations

import errno

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN})
"""No more open files or processes: the machine's trouble, and passing."""


class EngineError(Exception):
    """A render failed.

    Args:
        message: What went wrong, in words, without a final period's worth of stack trace.
        hint: What the user can do about it.
    """

    code = "engine_failed"
    retryable = True
    hint = "Look at the log of the spool for the engine's own words; `voicespool doctor` checks the engine."

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class EngineMissing(EngineError):
    code = "engine_missing"
    retryable = False
    hint = "`voicespool engines` says how to install it."


class RequestRefused(EngineError):
    code = "engine_refused"
    retryable = False
    hint = "`voicespool engines` lists what each engine can do."


class CheckpointRefused(RequestRefused):
    code = "checkpoint_refused"


class BadAudio(EngineError):
    code = "engine_bad_audio"
    hint = "Change the text or the settings; if it happens with every text, check the checkpoint."


class OutOfMemory(EngineError):
    code = "out_of_memory"
    hint = "Free memory on the device, or let the job run on the CPU with `device: {fallback_cpu: true}`."
