"""Chooses the engine and the model of a job: as named, else the engine of the checkpoint, else the defaults."""

from __future__ import annotations

from dataclasses import dataclass

from engines.checkpoints.reference import CheckpointRef
from files.allowed_paths import NotAllowed
from files.printable import printable
from jobs.order import Fallback
from jobs.spec.checks import path_fault
from jobs.spec.job_spec import JobSpec
from jobs.spec.problems import Problems, shown
from jobs.spec.rules import Rules

KEY = ("checkpoint",)


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine and the model of a job.

    Attributes:
        engine: Its name, maybe of an unknown engine; None if the job does not decide it.
        checkpoint: Its name in the job or in the configuration, or None.
        model: The checkpoint's file, or why the base model is used instead; None for the base model, or on a problem.
    """

    engine: str | None
    checkpoint: str | None = None
    model: CheckpointRef | Fallback | None = None


def choose(spec: JobSpec, rules: Rules, findings: Problems) -> Choice:
    """Choose for one job. A problem with its checkpoint is added to `findings`, or the base model is used instead."""
    if findings.has(KEY) or findings.has(("engine",)):
        return Choice(spec.engine)
    name, origin = spec.checkpoint, ""
    if name is None and _takes_default(spec, rules):
        name, origin = rules.defaults.get("checkpoint"), "defaults.checkpoint in config.yaml: "
    if name is None:
        return Choice(spec.engine or rules.default_engine)
    try:
        choice, fault = _chosen(spec, name, rules)
    except NotAllowed as wrong:
        choice, fault = Choice(spec.engine or rules.default_engine), str(wrong)
    if not fault:
        return choice
    if rules.on_checkpoint_error(spec) == "base":
        info = rules.info(choice.engine or "")
        if info is not None and info.takes_checkpoints:
            return Choice(choice.engine, name, Fallback(printable(name, 200), f"{origin}{fault}"))
        if spec.engine is None:
            fault += "; name the `engine` whose base model should be used instead"
    findings.add(KEY, f"{origin}{fault}")
    return Choice(spec.engine)


def _takes_default(spec: JobSpec, rules: Rules) -> bool:
    """Whether the default checkpoint can apply: the job names no engine, or one that takes checkpoints."""
    info = rules.info(spec.engine) if spec.engine is not None else None
    return spec.engine is None or (info is not None and info.takes_checkpoints)


def _chosen(spec: JobSpec, name: str, rules: Rules) -> tuple[Choice, str]:
    """The choice, and why the engine can't use that model ("" if it can).

    Raises:
        NotAllowed: There is no such model.
    """
    info = rules.info(spec.engine) if spec.engine is not None else None
    if fault := path_fault(name.rstrip("/")):
        raise NotAllowed(f"found {shown(name)}; {fault}")
    if info is not None and not info.takes_checkpoints:
        raise NotAllowed(
            f"{info.name} has no checkpoints; remove this key, or remove `engine`, which follows from the checkpoint"
        )
    if rules.models is None:
        raise NotAllowed("no models folder is configured")
    model = rules.models.refer(name)
    if spec.checkpoint is None and spec.engine is not None and model.engine not in (None, spec.engine):
        return Choice(spec.engine), ""  # the default checkpoint is for another engine, so it does not apply
    engine = spec.engine or model.engine or rules.default_engine
    return Choice(engine, name, model), _why_unusable(model, engine, rules)


def _why_unusable(model: CheckpointRef, engine: str, rules: Rules) -> str:
    """Why the engine can't use the model; "" if it can."""
    what = f"{model.name} is a model for {model.engine} ({model.architecture})"
    if model.engine is None and rules.reads_own_formats(engine):
        return ""  # only the plugin can check its files
    if model.engine is not None and model.engine != engine:
        return f"{what}, not for {printable(engine)}; remove `engine`, which follows from the checkpoint"
    if model.engine is not None and engine not in rules.engines:
        return f"{what}: {rules.planned.get(engine, 'this engine is unknown')}"
    why_not = model.why_not
    info = rules.info(engine)
    if (
        not why_not and rules.models and info is not None and info.missing is None
    ):  # without the engine, that comes first
        why_not = rules.models.missing(model)
    return f"{model.name} does not load: {why_not}" if why_not else ""
