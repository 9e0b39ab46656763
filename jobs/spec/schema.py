"""The JSON Schema of job files: what editors complete from and `voicespool schema job` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jobs.spec.as_written import takes_text
from jobs.spec.job_spec import JobSpec, Segment
from jobs.spec.shape import LEGACY_SETTINGS

_SOURCES = ("text", "text_file", "segments")


def job_schema(
    engines: Iterable[str] = ("espeak", "f5", "xtts"), planned: Iterable[str] = ("piper",)
) -> dict[str, Any]:
    """The schema of one job, made from the models.

    Args:
        engines: Names that an editor offers for `engine`.
        planned: Further ones, that job files may name though this version can't run them.

    Returns:
        JSON Schema (draft 2020-12). It takes all that `parse` takes; what depends on the engine, such as the names
        of settings, only `parse` knows.
    """
    schema = _untitled(JobSpec.model_json_schema())
    properties = schema["properties"]
    for part, model in ((schema, JobSpec), (schema["$defs"]["Segment"], Segment)):
        part["properties"] |= {key: _as_written(part["properties"][key]) for key in takes_text(model)}
    names = [*sorted(engines), *planned]
    properties["engine"] = {**properties["engine"], "anyOf": [{"enum": names}, {"type": ["string", "null"]}]}
    for key in LEGACY_SETTINGS:
        description = f"Older form of `settings: {{{key}: …}}`."
        properties[key] = {"type": ["number", "null"], "description": description}
    _or_nothing(schema, required=())
    for definition in schema["$defs"].values():
        _or_nothing(definition, definition.get("required", ()))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "voicespool job",
        **schema,
        "oneOf": [_given(key) for key in _SOURCES],
    }


def _as_written(schema: Any) -> Any:
    """Where text is taken, `3.10` and `true` are text as well; an editor reads them as a number and a word."""
    if isinstance(schema, list):
        return [_as_written(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _TEXT if (key, value) == ("type", "string") else _as_written(value) for key, value in schema.items()}


_TEXT = ["string", "number", "boolean"]


def _given(key: str) -> dict[str, Any]:
    """A source of text that is there; a key with nothing behind it is a key left out."""
    return {"required": [key], "properties": {key: {"not": {"type": "null"}}}}


def _or_nothing(schema: dict[str, Any], required: Iterable[str]) -> None:
    """Every optional key may stand there with nothing behind it."""
    for key, value in schema.get("properties", {}).items():
        if key in required or _takes_nothing(value):
            continue
        outside = {name: value.pop(name) for name in ("description", "default", "examples") if name in value}
        inner = value.get("anyOf", [dict(value)]) if set(value) <= {"anyOf"} else [dict(value)]
        schema["properties"][key] = {"anyOf": [*inner, {"type": "null"}], **outside}


def _takes_nothing(value: dict[str, Any]) -> bool:
    kinds = [value.get("type"), *(choice.get("type") for choice in value.get("anyOf", ()))]
    return any(kind == "null" or (isinstance(kind, list) and "null" in kind) for kind in kinds)


def _untitled(schema: Any) -> Any:
    """Without pydantic's titles and defaults of nothing, which only repeat what is there."""
    if isinstance(schema, list):
        return [_untitled(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _untitled(value) for key, value in schema.items() if not _repeats(key, value)}


def _repeats(key: str, value: Any) -> bool:
    return (key == "title" and isinstance(value, str)) or (
        key == "default" and (value in (None, []) or isinstance(value, dict))
    )
