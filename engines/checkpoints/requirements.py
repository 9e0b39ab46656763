"""What a checkpoint needs besides its own files: parts of a base model, and a vocoder.

Engines ask when they load one, and commands and the daemon ask before: both say the same. Nothing is imported or loaded
for that.
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
    """A model that has to be on this machine.

    Attributes:
        model: A key of `base_models.BASE_MODELS`, or `bigvgan`; "" for what no model brings.
        why, cure: What is wrong without it, and what to do, in sentences; "" for what `base_models.need` says.
    """

    model: str
    why: str = ""
    cure: str = ""


def of(found: Checkpoint) -> tuple[Requirement, ...]:
    """What a checkpoint that loads by its header needs besides."""
    if found.engine == "xtts":
        return _of_xtts(found)
    if found.engine == "f5" and found.variant is not None:
        return (*_of_f5(found), Requirement(found.variant.vocoder))
    return ()


def of_base_model(engine: str) -> tuple[Requirement, ...]:
    """What an engine needs for a job without a checkpoint; nothing for one that has no base model."""
    model = base_models.BASE_MODELS.get(engine)
    return () if model is None else (Requirement(model.name), *map(Requirement, model.needs))


def check(needs: Iterable[Requirement], models: Path | None) -> None:
    """Look for all of it.

    Args:
        models: As for `base_models.find`.

    Raises:
        EngineMissing: Something is not there; says what, and what brings it.
    """
    for need in needs:
        if need.model and (not need.why or base_models.find(need.model, models) is not None):
            base_models.need(need.model, models)
        else:
            raise EngineMissing(need.why, need.cure)


def missing(needs: Iterable[Requirement], models: Path | None) -> EngineMissing | None:
    """The same for who wants to say it: what `check` raises, or None."""
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
    why = f"there is no vocab.json next to {found.path.name}, and no base model to take it from"
    return (Requirement("xtts", why, f"Copy vocab.json from the training run into that folder, or {_pull('xtts')}."),)


def _of_f5(found: Checkpoint) -> tuple[Requirement, ...]:
    if found.vocab is not None:
        return ()
    name = f5_vocabulary.NAME
    why = f"there is no {name} next to {found.path.name}, and f5-tts, to take its own from, is not installed"
    return (
        Requirement(
            "", why, f"Copy {name} from the training run into that folder, or install f5: `voicespool engines`."
        ),
    )


def _pull(name: str) -> str:
    return f"run `{base_models.BASE_MODELS[name].command}`"
