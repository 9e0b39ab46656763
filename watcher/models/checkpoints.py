"""What the `checkpoints` commands do: find model files, describe them, and delete one that is not in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engines.checkpoints import f5_layout, requirements
from engines.checkpoints.inspection import Checkpoint, inspect, survey
from engines.checkpoints.reference import CheckpointRef
from files.allowed_paths import NotAllowed
from files.opens import opened_regular, read_at_most
from files.printable import printable
from jobs.errors import JobInvalid, SpoolError
from jobs.spec.checkpoint_names import Models
from jobs.spec.parse import parse
from jobs.spec.rules import Rules
from jobs.spool.claim import Claim, ClaimFolder
from jobs.spool.inbox_names import is_job_name, is_walked
from watcher.client import status
from watcher.config.settings import Config

MISSING, KEPT = 4, 1


class NoSuchCheckpoint(SpoolError):
    """A name of no model, or of several."""

    code = "checkpoint_missing"
    exit_code = MISSING
    hint = "`voicespool checkpoints list` lists the models."


class NotDeleted(SpoolError):
    """A model that is needed."""

    code = "checkpoint_kept"
    exit_code = KEPT


def find(config: Config, name: str) -> Checkpoint:
    """The model of a name, marked when it is the best in its folder.

    Raises:
        NoSuchCheckpoint: There is none, there are several, or it may not be used.
    """
    try:
        path = Models(config.models, config.allowed_roots).find(name)
    except NotAllowed as error:
        raise NoSuchCheckpoint(str(error)) from None
    beside = survey(path.parent, config.models)
    one = next((one for one in beside if one.path == path), None) or inspect(path, config.models)
    return as_here(one, config)


def as_here(one: Checkpoint, config: Config) -> Checkpoint:
    """A model as it is on this machine: one whose base model or vocoder is not here does not load."""
    missing = requirements.missing(requirements.of(one), config.models) if one.loads else None
    if missing is None:
        return one
    return replace(one, loads=False, why_not=f"{missing.message[:1].upper()}{missing.message[1:]}.", cure=missing.hint)


def name_of(one: Checkpoint, config: Config) -> str:
    """Its path in models/, or the whole path if it is elsewhere; safe to print."""
    for folder in (config.models, config.models.resolve()):
        if one.path.is_relative_to(folder):
            return printable(one.path.relative_to(folder), 5000)
    return printable(one.path, 5000)


def as_json(one: Checkpoint, config: Config) -> dict[str, Any]:
    """Everything that is known of it."""
    beside = {key: getattr(one, key) for key in ("config", "vocab", "speakers")}
    variant = one.variant
    return {
        "name": name_of(one, config),
        "path": printable(one.path, 5000),
        "engine": one.engine,
        "architecture": one.architecture,
        "loads": one.loads,
        "why_not": one.why_not or None,
        "cure": one.cure or None,
        "best": one.is_best,
        "step": one.step,
        "epoch": one.epoch,
        "validation_loss": one.validation_loss,
        "training_loss": one.training_loss,
        "container": one.container or None,
        "precision": one.precision or None,
        "averaged": one.averaged,
        "vocabulary": one.vocabulary,
        "sizes": asdict(one.sizes) if one.sizes is not None else None,
        "variant": None
        if variant is None
        else {
            "name": variant.name,
            "flags": asdict(variant.flags) if variant.flags is not None else None,
            "evidence": variant.evidence,
            "hint": variant.hint or None,
            "vocoder": variant.vocoder,
        },
        "parameters": one.parameters,
        "size_bytes": one.size_bytes,
        "created": datetime.fromtimestamp(one.created, UTC).isoformat(timespec="seconds"),
        **{key: printable(path, 5000) if path is not None else None for key, path in beside.items()},
        "warnings": list(one.warnings),
    }


# --- inspect --as ----------------------------------------------------------------------------------------------------

PUBLISHED = {name.lower().replace("-tts ", "-"): name for name in f5_layout.PUBLISHED}
"""What a file can be compared with: `f5-base` -> `F5-TTS Base`, …"""


def differences(one: Checkpoint, published: str) -> list[tuple[str, str, str]]:
    """Why a file would not load as a published model: what, in the file, in the model; nothing when it would."""
    wanted = f5_layout.PUBLISHED[published]
    if one.sizes is None:
        return [("model", one.architecture, f5_layout.title(wanted))]
    return f5_layout.differences(one.sizes, wanted)


def compared_as_json(one: Checkpoint, published: str) -> dict[str, Any]:
    """The same for programs."""
    found = [dict(zip(("what", "has", "needs"), line, strict=True)) for line in differences(one, published)]
    return {"name": published, "fits": not found, "differences": found}


# --- delete ----------------------------------------------------------------------------------------------------------


def refuse_needed(one: Checkpoint, config: Config, rules: Rules) -> None:
    """Say why a model has to stay.

    Raises:
        NotDeleted: It is the best of its folder, or in use; or it is outside of models/.
    """
    name = name_of(one, config)
    if not one.path.is_relative_to(config.models.resolve()):
        raise NotDeleted(f"{name} is outside of {printable(config.models)}", "Delete it there by hand.")
    if one.is_best:
        raise NotDeleted(
            f"{name} has the lowest validation loss in its folder ({one.validation_loss:g})",
            "Delete other models, or delete this one by hand.",
        )
    if user := next(_users(one.path, config, rules), None):
        raise NotDeleted(f"{name} is in use: {user}", "Try again later, or cancel the job.")


def delete(one: Checkpoint) -> None:
    """Remove the file; files next to it stay."""
    one.path.unlink()


def _users(path: Path, config: Config, rules: Rules) -> Iterator[str]:
    """What needs a model now or soon: the configuration, the loaded engine, jobs that are claimed or wait."""
    if rules.defaults.get("checkpoint") and _default(rules) == path:
        yield "config.yaml names it as defaults.checkpoint"
    seen = status.look(config)
    warm = seen.status.warm if seen.daemon is not None else None
    if warm is not None and warm.checkpoint == str(path):
        yield "the running daemon has it loaded"
    for file, job in _job_files(config):
        if _names(file, path, config, rules):
            yield f"the job {printable(job)} names it"


def _default(rules: Rules) -> Path | None:
    try:
        return rules.models.find(rules.defaults["checkpoint"]) if rules.models is not None else None
    except NotAllowed:
        return None


def _job_files(config: Config) -> Iterator[tuple[Path, str]]:
    """Every job file, claimed or still in the inbox, with the name to call it by.

    Raises:
        NotDeleted: The claims can't be seen.
    """
    claimed = config.state_dir / "claimed"
    try:
        for job_id in sorted(os.listdir(claimed)) if claimed.exists() else []:
            folder = claimed / job_id
            own = sorted(name for name in os.listdir(folder) if name.startswith("job."))
            claim = Claim.read(ClaimFolder(folder))
            yield folder / (own[0] if own else "original"), claim.source if claim else job_id
    except PermissionError:
        hint = "Run this as the daemon's user."
        raise NotDeleted(f"{printable(claimed)} can't be read, so waiting jobs are unknown", hint) from None
    for parent, below, names in os.walk(config.inbox):
        below[:] = sorted(filter(is_walked, below))
        for name in sorted(filter(is_job_name, names)):
            yield Path(parent, name), os.path.relpath(os.path.join(parent, name), config.inbox)


def _names(file: Path, model: Path, config: Config, rules: Rules) -> bool:
    """Whether a job of this file would be rendered with the model."""
    try:
        with opened_regular(file) as (descriptor, _status):
            data = read_at_most(descriptor, config.limits.job_file_bytes)
    except OSError:  # gone meanwhile, or no job
        return False
    if b"checkpoint" not in data.replace(b"\0", b"") and b"\\" not in data:  # a large inbox is not parsed for nothing
        return False
    try:
        return any(
            isinstance(job.model, CheckpointRef) and job.model.path == model for job in parse(data, file.suffix, rules)
        )
    except JobInvalid:
        return False
