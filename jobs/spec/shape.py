"""From plain data to a `JobSpec`: keys, kinds and ranges.

What is wrong is taken out and the rest read again, so that one wrong key does not hide what `checks` would
say about the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from files.tree import Tree
from jobs.spec import other_tools
from jobs.spec.as_written import AsWritten
from jobs.spec.job_spec import JobSpec, Output, Segment
from jobs.spec.problems import Format, Problems, shown

LEGACY_SETTINGS = ("speed", "temperature", "repetition_penalty", "length_penalty", "top_k", "top_p")
_PLACEHOLDER = {"text": "x"}


def shape(tree: Tree, most: int) -> tuple[JobSpec | None, Problems]:
    """Read a document as a job.

    Returns:
        The job as far as it could be understood (None: not at all), and what is wrong with it, or odd. In a job that
        has findings, wrong values are left out and segments without text say "x".
    """
    if not isinstance(tree.value, dict):
        findings = Problems(tree, most)
        findings.add((), f"a job is keys with values, such as `text: Hello`; found {shown(tree.value)}")
        return None, findings
    typed = AsWritten(tree)
    data = _without_nothing(typed.value)
    moved = frozenset(key for key in LEGACY_SETTINGS if key in data)
    findings = Problems(replace(tree, problems=typed.faults()), most, moved, typed.told())
    if moved:
        _fold(data, moved, findings)
    try:
        return JobSpec.model_validate(data), findings
    except ValidationError as error:
        wrong = error
    JOB_FILE.explain(wrong, data, findings)
    try:
        return JobSpec.model_validate(_mended(data, wrong)), findings
    except ValidationError:
        return None, findings


def _without_nothing(value: Mapping[str, Any]) -> dict[str, Any]:
    """An empty value is a key left out; an unknown key stays, to be named."""
    data = {key: item for key, item in value.items() if item is not None or key not in JobSpec.model_fields}
    if isinstance(output := data.get("output"), dict):
        data["output"] = _filled(output, Output)
    if isinstance(segments := data.get("segments"), list):
        data["segments"] = [_filled(part, Segment) if isinstance(part, dict) else part for part in segments]
    return data


def _filled(value: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    if None not in value.values():
        return value
    return {key: item for key, item in value.items() if item is not None or key not in model.model_fields}


def _fold(data: dict[str, Any], moved: frozenset[str], findings: Problems) -> None:
    """Put `speed` and its like, written at the top level, where they belong."""
    settings = data.get("settings", {})
    old = {key: data.pop(key) for key in LEGACY_SETTINGS if key in moved}
    if not isinstance(settings, dict):
        return
    for key in old:
        if key in settings:
            findings.add((key,), f"is given here and under `settings`; give it once, as `settings: {{{key}: …}}`")
    data["settings"] = {**old, **settings}


def _instead(key: str) -> str:
    """Where a setting belongs, or what does here what another tool's key does."""
    if key in LEGACY_SETTINGS:
        return "it belongs under `settings`"
    return f"here it is {instead}" if (instead := other_tools.here(key)) else ""


JOB_FILE = Format(JobSpec, LEGACY_SETTINGS, _instead)


def _mended(data: dict[str, Any], wrong: ValidationError) -> dict[str, Any]:
    """The data without what is wrong in it. Copies what it changes: a mapping may stand in several places."""
    mended = dict(data)
    if isinstance(mended.get("segments"), list):
        mended["segments"] = [
            {**_PLACEHOLDER, **part} if isinstance(part, dict) else _PLACEHOLDER for part in mended["segments"]
        ]
    if isinstance(mended.get("output"), dict):
        mended["output"] = dict(mended["output"])
    for detail in wrong.errors(include_url=False, include_context=False, include_input=False):
        match detail["loc"]:
            case ("segments", int(index), str(key), *_):
                mended["segments"][index].pop(key, None)
                mended["segments"][index].setdefault("text", "x")
            case ("segments", int()):
                pass
            case ("output", str(key), *_) if isinstance(mended.get("output"), dict):
                mended["output"].pop(key, None)
            case (str(key), *_):
                mended.pop(key, None)
    return mended
