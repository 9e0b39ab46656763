"""The JSON Schema of job files, for editors and `voicespool schema job`."""

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
    """The schema of one job, generated from the models.

    Args:
        engines: Names that an editor suggests for `engine`.
        planned: Engines of later versions, suggested too.

    Returns:
        JSON Schema (draft 2020-12). It accepts every valid job. It does not check what depends on the engine, such as
        the names of settings.
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
    _allow_null(schema, required=())
    for definition in schema["$defs"].values():
        _allow_null(definition, definition.get("required", ()))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "voicespool job",
        **schema,
        "oneOf": [_is_set(key) for key in _SOURCES],
    }


def _as_written(schema: Any) -> Any:
    """Accept numbers and booleans where text is expected: to an editor, `3.10` and `true` are no text."""
    if isinstance(schema, list):
        return [_as_written(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _TEXT if (key, value) == ("type", "string") else _as_written(value) for key, value in schema.items()}


_TEXT = ["string", "number", "boolean"]


def _is_set(key: str) -> dict[str, Any]:
    """The key is present and not null."""
    return {"required": [key], "properties": {key: {"not": {"type": "null"}}}}


def _allow_null(schema: dict[str, Any], required: Iterable[str]) -> None:
    """Allow null for every optional key: a key without a value counts as left out."""
    for key, value in schema.get("properties", {}).items():
        if key in required or _takes_null(value):
            continue
        outside = {name: value.pop(name) for name in ("description", "default", "examples") if name in value}
        inner = value.get("anyOf", [dict(value)]) if set(value) <= {"anyOf"} else [dict(value)]
        schema["properties"][key] = {"anyOf": [*inner, {"type": "null"}], **outside}


def _takes_null(value: dict[str, Any]) -> bool:
    kinds = [value.get("type"), *(choice.get("type") for choice in value.get("anyOf", ()))]
    return any(kind == "null" or (isinstance(kind, list) and "null" in kind) for kind in kinds)


def _untitled(schema: Any) -> Any:
    """Remove pydantic's titles and empty defaults, which add no information."""
    if isinstance(schema, list):
        return [_untitled(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _untitled(value) for key, value in schema.items() if not _is_redundant(key, value)}


def _is_redundant(key: str, value: Any) -> bool:
    return (key == "title" and isinstance(value, str)) or (
        key == "default" and (value in (None, []) or isinstance(value, dict))
    )
