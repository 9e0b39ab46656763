"""Validates plain data as a `JobSpec`: keys, types and ranges.

Invalid values are removed and the rest is validated again, so that one wrong key does not hide problems that `checks`
finds in the others.
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


def shape(tree: Tree, max_problems: int) -> tuple[JobSpec | None, Problems]:
    """Read a document as a job.

    Returns:
        The job and its problems and warnings. In a job with problems, invalid values are left out, and segments without
        text have the text "x". The job is None if nothing of it is valid.
    """
    if not isinstance(tree.value, dict):
        findings = Problems(tree, max_problems)
        findings.add((), f"a job must be keys with values, such as `text: Hello`; found {shown(tree.value)}")
        return None, findings
    typed = AsWritten(tree)
    data = _without_nulls(typed.value)
    moved = frozenset(key for key in LEGACY_SETTINGS if key in data)
    findings = Problems(replace(tree, problems=typed.faults()), max_problems, moved, typed.first_warnings())
    if moved:
        _move_to_settings(data, moved, findings)
    try:
        return JobSpec.model_validate(data), findings
    except ValidationError as error:
        wrong = error
    JOB_FILE.explain(wrong, data, findings)
    try:
        return JobSpec.model_validate(_without_invalid(data, wrong)), findings
    except ValidationError:
        return None, findings


def _without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """Remove keys with a null value, as if they were left out. Unknown keys stay, to be reported."""
    data = {key: item for key, item in value.items() if item is not None or key not in JobSpec.model_fields}
    if isinstance(output := data.get("output"), dict):
        data["output"] = _non_null(output, Output)
    if isinstance(segments := data.get("segments"), list):
        data["segments"] = [_non_null(part, Segment) if isinstance(part, dict) else part for part in segments]
    return data


def _non_null(value: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    if None not in value.values():
        return value
    return {key: item for key, item in value.items() if item is not None or key not in model.model_fields}


def _move_to_settings(data: dict[str, Any], moved: frozenset[str], findings: Problems) -> None:
    """Move `speed` and other settings from the top level (the older form) to `settings`."""
    settings = data.get("settings", {})
    old = {key: data.pop(key) for key in LEGACY_SETTINGS if key in moved}
    if not isinstance(settings, dict):  # reported by the validation
        return
    for key in old:
        if key in settings:
            findings.add((key,), f"is given here and under `settings`; give it once, as `settings: {{{key}: …}}`")
    data["settings"] = {**old, **settings}


def _instead(key: str) -> str:
    """Where a setting belongs, or the equivalent of another tool's key."""
    if key in LEGACY_SETTINGS:
        return "it belongs under `settings`"
    return f"use {instead}" if (instead := other_tools.equivalent(key)) else ""


JOB_FILE = Format(JobSpec, LEGACY_SETTINGS, _instead)


def _without_invalid(data: dict[str, Any], wrong: ValidationError) -> dict[str, Any]:
    """The data without invalid values, in a copy: an alias may share a mapping."""
    valid = dict(data)
    if isinstance(valid.get("segments"), list):
        valid["segments"] = [
            {**_PLACEHOLDER, **part} if isinstance(part, dict) else _PLACEHOLDER for part in valid["segments"]
        ]
    if isinstance(valid.get("output"), dict):
        valid["output"] = dict(valid["output"])
    for detail in wrong.errors(include_url=False, include_context=False, include_input=False):
        match detail["loc"]:
            case ("segments", int(index), str(key), *_):
                valid["segments"][index].pop(key, None)
                valid["segments"][index].setdefault("text", "x")
            case ("segments", int()):
                pass
            case ("output", str(key), *_) if isinstance(valid.get("output"), dict):
                valid["output"].pop(key, None)
            case (str(key), *_):
                valid.pop(key, None)
    return valid
