"""From plain data to a `JobSpec`: keys, kinds and ranges, with everything that does not fit put into words.

What is wrong is taken out and the rest read again, so that one wrong key does not hide what `checks` would
say about the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from files.printable import printable
from files.tree import Path, Tree
from jobs.spec import other_tools
from jobs.spec.as_written import AsWritten
from jobs.spec.job_spec import Allowed, JobSpec, Output, Segment
from jobs.spec.problems import Problems, listed, nearest, shown

LEGACY_SETTINGS = ("speed", "temperature", "repetition_penalty", "length_penalty", "top_k", "top_p")
_MAX_LISTED = 8
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
        details = _deepest(error.errors(include_url=False, include_context=False))
    for number, detail in enumerate(details):
        if findings.full:
            findings.more += len(details) - number
            break
        findings.add(*_complaint(detail["type"], detail["loc"], data))
    try:
        return JobSpec.model_validate(_mended(data, details)), findings
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


def _deepest(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without "too few good items" about a list whose items are each complained about."""
    inner = {detail["loc"][0] for detail in details if len(detail["loc"]) > 1}
    return [detail for detail in details if len(detail["loc"]) > 1 or detail["loc"][0] not in inner]


def _complaint(kind: str, loc: Path, data: dict[str, Any]) -> tuple[Path, str]:
    """One of pydantic's findings in our words: where, and what was found and what is allowed."""
    if kind == "extra_forbidden":
        return loc, _unknown(loc)
    if kind == "missing":
        return loc, "is missing; a segment needs a text to speak"
    path, found = _reached(loc, data)
    if kind in {"dict_type", "model_type", "model_attributes_type"} and path[:1] == ("segments",) and len(path) == 2:
        return path, f"found {shown(found)}; allowed is a passage such as {{text: Hello}}"
    words = _allowed(path)
    if words == "text" and isinstance(found, int | float):
        return path, f"found {shown(found)}; allowed is text: put it in quotes to have it spoken"
    return path, f"found {shown(found)}; allowed is {words}" + nearest(found, _choices(words))


def _unknown(loc: Path) -> str:
    """Name the nearest key that is allowed there, or where such a key belongs."""
    key, model, place = str(loc[-1]), _model(loc[:-1]), _place(loc[:-1])
    known = [*model.model_fields, *(LEGACY_SETTINGS if model is JobSpec else ())]
    said = f"`{printable(key, 60)}` is not a key of {place}"
    if key in LEGACY_SETTINGS:
        return f"{said}; it belongs under `settings`"
    for other in (JobSpec, Output, Segment):
        if key in other.model_fields:
            where = {JobSpec: "the job as a whole", Output: "`output`", Segment: "a segment"}[other]
            return f"{said}; it belongs to {where}"
    if instead := other_tools.here(key):
        return f"{said}; here it is {instead}"
    return said + (nearest(key, known) or f"; those it has are {listed(known, _MAX_LISTED)}")


def _model(path: Path) -> type[BaseModel]:
    if path[:1] == ("segments",):
        return Segment
    return Output if path[:1] == ("output",) else JobSpec


def _place(path: Path) -> str:
    return {JobSpec: "a job file", Segment: "a segment", Output: "`output`"}[_model(path)]


def _reached(loc: Path, data: Any) -> tuple[Path, Any]:
    """The part of a location that is in the file, and what is there."""
    path: Path = ()
    for step in loc:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            break
        path = (*path, step)
    return path, data


def _allowed(path: Path) -> str:
    """What the key at this place takes, in words."""
    names = [step for step in path if isinstance(step, str)]
    key = names[-1] if _model(path) is JobSpec else names[min(1, len(names) - 1)]
    model = JobSpec if len(names) == 1 else _model(path)
    return _words(model, key if key in model.model_fields else names[0])


@cache
def _words(model: type[BaseModel], key: str) -> str:
    field = model.model_fields[key]
    places = [*field.metadata, *(item for kind in get_args(field.annotation) for item in get_args(kind))]
    return next((place.words for place in places if isinstance(place, Allowed)), "something else")


def _choices(words: str) -> list[str]:
    """The single words of a list of allowed words, to find the nearest one."""
    return words.replace(",", " ").replace(" or ", " ").split() if " " in words and len(words) < 40 else []


def _mended(data: dict[str, Any], details: list[ErrorDetails]) -> dict[str, Any]:
    """The data without what is wrong in it. Copies what it changes: a mapping may stand in several places."""
    mended = dict(data)
    if isinstance(mended.get("segments"), list):
        mended["segments"] = [
            {**_PLACEHOLDER, **part} if isinstance(part, dict) else _PLACEHOLDER for part in mended["segments"]
        ]
    if isinstance(mended.get("output"), dict):
        mended["output"] = dict(mended["output"])
    for detail in details:
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
