"""Which engine a job is for, and which model: what it names, else what follows from the other, else the default."""

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
    """What a job is rendered with.

    Attributes:
        engine: Its name, which may be nobody's; None when it can't be told.
        checkpoint: Its name in the job or in the configuration; None where none is named.
        model: The file of that name, or why the base model takes its place; None also when something is wrong with it.
    """

    engine: str | None
    checkpoint: str | None = None
    model: CheckpointRef | Fallback | None = None


def choose(spec: JobSpec, rules: Rules, findings: Problems) -> Choice:
    """Choose for one job. What is wrong with its checkpoint goes to the findings, or lets the base model speak."""
    if findings.has(KEY) or findings.has(("engine",)):
        return Choice(spec.engine)
    name, said = spec.checkpoint, ""
    if name is None and _takes_default(spec, rules):
        name, said = rules.defaults.get("checkpoint"), "defaults.checkpoint in config.yaml: "
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
            return Choice(choice.engine, name, Fallback(printable(name, 200), f"{said}{fault}"))
        if spec.engine is None:
            fault += "; name the `engine` whose base model is to take its place"
    findings.add(KEY, f"{said}{fault}")
    return Choice(spec.engine)


def _takes_default(spec: JobSpec, rules: Rules) -> bool:
    """Whether the configuration's checkpoint may be for this job: its engine is open, or takes checkpoints."""
    info = rules.info(spec.engine) if spec.engine is not None else None
    return spec.engine is None or (info is not None and info.takes_checkpoints)


def _chosen(spec: JobSpec, name: str, rules: Rules) -> tuple[Choice, str]:
    """The choice, and why the engine can't speak with that model, "" when it can.

    Raises:
        NotAllowed: There is no such model; the text is a sentence.
    """
    info = rules.info(spec.engine) if spec.engine is not None else None
    if fault := path_fault(name.rstrip("/")):
        raise NotAllowed(f"found {shown(name)}; {fault}")
    if info is not None and not info.takes_checkpoints:
        raise NotAllowed(f"{info.name} has no checkpoints; leave this out, or `engine`, which follows from it")
    if rules.models is None:
        raise NotAllowed("there is no folder of models here")
    model = rules.models.refer(name)
    if spec.checkpoint is None and spec.engine is not None and model.engine not in (None, spec.engine):
        return Choice(spec.engine), ""  # the default one is for another engine: no fault of the job
    engine = spec.engine or model.engine or rules.default_engine
    return Choice(engine, name, model), _misfit(model, engine, rules)


def _misfit(model: CheckpointRef, engine: str, rules: Rules) -> str:
    """Why the engine can't speak with the model, "" when it can. A plugin knows its own files; nobody else does."""
    what = f"{model.name} is a model for {model.engine} ({model.architecture})"
    if model.engine is None and rules.knows_its_files(engine):
        return ""
    if model.engine is not None and model.engine != engine:
        return f"{what}, not for {printable(engine)}; leave `engine` out, since it follows from the checkpoint"
    if model.engine is not None and engine not in rules.engines:
        return f"{what}: {rules.planned.get(engine, 'there is no such engine here')}"
    why_not = model.why_not or _lacks(model, engine, rules)
    return f"{model.name} does not load: {why_not}" if why_not else ""


def _lacks(model: CheckpointRef, engine: str, rules: Rules) -> str:
    """What is not on this machine that the engine needs for the model; without the engine itself nobody asks."""
    info = rules.info(engine)
    return rules.models.lacks(model) if rules.models and info is not None and info.missing is None else ""
