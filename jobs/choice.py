"""Which engine a job is for, and which model: what it names, else what follows from the other, else the default."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.checkpoint_names import Model
from jobs.checks import path_fault
from jobs.errors import printable
from jobs.findings import Findings, shown
from jobs.recordings import NotAllowed
from jobs.rules import Rules
from jobs.spec import JobSpec

KEY = ("checkpoint",)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a job is rendered with.

    Attributes:
        engine: Its name, which may be nobody's; None when it can't be told.
        checkpoint: Its name in the job or in the configuration; None for the base model.
        model: The file of that name; None also when something is wrong with it.
    """

    engine: str | None
    checkpoint: str | None = None
    model: Model | None = None


def choose(spec: JobSpec, rules: Rules, findings: Findings) -> Choice:
    """Choose for one job. What is wrong with its checkpoint goes to the findings."""
    if findings.has(KEY) or findings.has(("engine",)):
        return Choice(spec.engine)
    name, said = spec.checkpoint, ""
    if name is None and _takes_default(spec, rules):
        name, said = rules.defaults.get("checkpoint"), "defaults.checkpoint in config.yaml: "
    if name is None:
        return Choice(spec.engine or rules.default_engine)
    try:
        return _chosen(spec, name, rules)
    except NotAllowed as wrong:
        findings.add(KEY, f"{said}{wrong}")
        return Choice(spec.engine)


def _takes_default(spec: JobSpec, rules: Rules) -> bool:
    """Whether the configuration's checkpoint may be for this job: its engine is open, or takes checkpoints."""
    info = rules.info(spec.engine) if spec.engine is not None else None
    return spec.engine is None or (info is not None and info.takes_checkpoints)


def _chosen(spec: JobSpec, name: str, rules: Rules) -> Choice:
    """Raises NotAllowed with a sentence that says what is wrong with the checkpoint."""
    info = rules.info(spec.engine) if spec.engine is not None else None
    if fault := path_fault(name.rstrip("/")):
        raise NotAllowed(f"found {shown(name)}; {fault}")
    if info is not None and not info.takes_checkpoints:
        raise NotAllowed(f"{info.name} has no checkpoints; leave this out, or `engine`, which follows from it")
    if rules.models is None:
        raise NotAllowed("there is no folder of models here")
    model = rules.models.model(name)
    if spec.checkpoint is None and spec.engine is not None and model.engine not in (None, spec.engine):
        return Choice(spec.engine)  # the default one is for another engine: no fault of the job
    engine = spec.engine or model.engine or rules.default_engine
    if fault := _misfit(model, engine, rules):
        raise NotAllowed(fault)
    return Choice(engine, name, model)


def _misfit(model: Model, engine: str, rules: Rules) -> str:
    """Why the engine can't speak with the model, "" when it can. A plugin knows its own files; nobody else does."""
    what = f"{model.name} is a model for {model.engine} ({model.architecture})"
    if model.engine is None and rules.knows_its_files(engine):
        return ""
    if model.engine is not None and model.engine != engine:
        return f"{what}, not for {printable(engine)}; leave `engine` out, since it follows from the checkpoint"
    if model.engine is not None and engine not in rules.engines:
        return f"{what}: {rules.planned.get(engine, 'there is no such engine here')}"
    return f"{model.name} does not load: {model.why_not}" if model.why_not else ""
