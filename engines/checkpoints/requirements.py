"""What a checkpoint needs besides its own files: parts of a base model, and a vocoder.

Engines check this when they load a checkpoint; commands and the daemon check it earlier, with the same messages.
Nothing is imported or loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engines.checkpoints import base_models, f5_vocabulary
from engines.checkpoints.inspection import Checkpoint
from engines.errors import EngineMissing


@dataclass(frozen=True, slots=True)
class Requirement:
    """A model that must be on this machine.

    Attributes:
        model: A key of `base_models.BASE_MODELS`, or `bigvgan`; "" if no model provides what is missing.
        why, cure: Error and hint if it is missing; "" for those of `base_models.require`.
    """

    model: str
    why: str = ""
    cure: str = ""


def of(found: Checkpoint) -> tuple[Requirement, ...]:
    """What a checkpoint needs, if its header has no faults."""
    if found.engine == "xtts":
        return _of_xtts(found)
    if found.engine == "f5" and found.variant is not None:
        return (*_of_f5(found), Requirement(found.variant.vocoder))
    return ()


def of_base_model(engine: str) -> tuple[Requirement, ...]:
    """What an engine needs for jobs without a checkpoint; nothing if it has no base model."""
    model = base_models.BASE_MODELS.get(engine)
    return () if model is None else (Requirement(model.name), *map(Requirement, model.needs))


def check(needs: Iterable[Requirement], models: Path | None) -> None:
    """Check that all requirements are on this machine.

    Args:
        needs: The requirements.
        models: As for `base_models.find`.

    Raises:
        EngineMissing: The first one is missing; the hint says how to get it.
    """
    for need in needs:
        if need.model and (not need.why or base_models.find(need.model, models) is not None):
            base_models.require(need.model, models)
        else:
            raise EngineMissing(need.why, need.cure)


def missing(needs: Iterable[Requirement], models: Path | None) -> EngineMissing | None:
    """The error that `check` raises, or None."""
    try:
        check(needs, models)
    except EngineMissing as error:
        return error
    return None


def _of_xtts(found: Checkpoint) -> tuple[Requirement, ...]:
    if found.is_adapter:
        return (Requirement("xtts"),)
    if found.vocab is not None:
        return ()
    command = base_models.BASE_MODELS["xtts"].command
    why = f"there is no vocab.json next to {found.path.name}, and no base model to take it from"
    return (Requirement("xtts", why, f"Copy vocab.json from the training run into that folder, or run `{command}`."),)


def _of_f5(found: Checkpoint) -> tuple[Requirement, ...]:
    if found.vocab is not None:
        return ()
    name = f5_vocabulary.NAME
    why = f"there is no {name} next to {found.path.name}, and f5-tts, which has one, is not installed"
    cure = f"Copy {name} from the training run into that folder, or install f5: `voicespool engines` shows how."
    return (Requirement("", why, cure),)
