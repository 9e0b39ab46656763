"""Errors in config.yaml, in words: each with line, key, what was found and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from files import yaml12
from files.printable import printable
from files.tree import Bounds, Problem, Tree, UnreadableText, dotted
from files.tree import Path as Key
from jobs.errors import ConfigError

EMPTY = Tree({}, 1, {})
MAX_BYTES = 1024 * 1024
_MAX_VALUE = 60


def complaints(path: Path | None, problems: Sequence[Problem]) -> ConfigError:
    """All problems of a configuration as one error, a line for each."""
    where = "configuration" if path is None else printable(path)
    return ConfigError(
        "\n".join(in_file(where, problem) for problem in problems),
        "`voicespool schema config` lists every key; config.yaml explains them.",
    )


def in_file(file: str, problem: Problem) -> str:
    """`FILE:LINE: key: message`, the form that editors jump to. `file` must be printable already."""
    place = file if problem.line is None else f"{file}:{problem.line}"
    return f"{place}: {problem.key}: {problem.message}" if problem.key else f"{place}: {problem.message}"


def read_yaml(path: Path) -> Tree:
    """Read a configuration file; its value is a dict.

    Raises:
        ConfigError: it can't be read, is no YAML, or no mapping.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        hint = "`voicespool init` creates a config.yaml; without `--config`, ./config.yaml or the defaults apply."
        raise ConfigError(f"{printable(path)}: can't be read: {error.strerror}", hint) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{printable(path)}: larger than the limit for a configuration ({MAX_BYTES} bytes)")
    try:
        tree = _only_document(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise complaints(path, [Problem("not UTF-8; save the file as UTF-8", line=line)]) from None
    except UnreadableText as error:
        raise complaints(path, [error.problem]) from None
    if tree.value is None:
        return EMPTY
    if not isinstance(tree.value, dict):
        raise complaints(path, [Problem("must be keys with values, such as `inbox: inbox`", line=tree.line)])
    return tree


def _only_document(text: str) -> Tree:
    pieces = list(yaml12.split(text))
    if len(pieces) > 1:
        raise UnreadableText("a configuration is one YAML document; a second one starts here", pieces[1].line)
    return (yaml12.read(pieces[0], Bounds()) if pieces else None) or EMPTY


def complaint(error: ValidationError, model: type[BaseModel], tree: Tree) -> tuple[Problem, ...]:
    """Turn the reader's and pydantic's findings into words, in the order of the file, one for each key."""
    problems = {problem.key: problem for problem in tree.problems}
    by_key: dict[Key, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_known_part(detail["loc"], tree.value), []).append(detail)
    for key, details in by_key.items():
        unknown = details[0]["type"] == "extra_forbidden"
        message = _unknown(key, model) if unknown else _wrong(details, key, tree.value)
        problems.setdefault(dotted(key), Problem(message, dotted(key), tree.line_of(key)))
    return tuple(sorted(problems.values(), key=lambda problem: problem.line or 0))


def _known_part(loc: Key, data: Any) -> Key:
    """The part of pydantic's location that is in the file; the rest names alternatives of a union."""
    key: Key = ()
    for step in loc:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            break
        key = (*key, step)
    return key


def _unknown(key: Key, root: type[BaseModel]) -> str:
    """Name the nearest known key: in the same section first, then anywhere."""
    model = root
    for step in key[:-1]:
        model = _section(model, str(step)) or model
    name = str(key[-1])
    prefix = dotted(key[:-1])
    here = [f"{prefix}.{field}" if prefix else field for field in model.model_fields]
    by_name = {field.rsplit(".", 1)[-1]: field for field in reversed([*here, *_all_keys(root)])}
    near = by_name.get(name) or _nearest(name, here, by_name)
    if near:
        return f"unknown key; did you mean {near}?"
    return f"unknown key; available here: {', '.join(model.model_fields)}"


def _nearest(name: str, here: Sequence[str], by_name: Mapping[str, str]) -> str | None:
    local = {field.rsplit(".", 1)[-1]: field for field in here}
    for names in (local, by_name):
        match = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1, cutoff=0.6)
        if match:
            return names[match[0]]
    return None


def _all_keys(root: type[BaseModel]) -> list[str]:
    keys: list[str] = []
    for name in root.model_fields:
        section = _section(root, name)
        keys += [f"{name}.{field}" for field in section.model_fields] if section else []
    return keys + list(root.model_fields)


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


_WORDS: Mapping[str, str] = {
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be the path of a folder",
    "tuple_type": "must be a list",
    "mapping_type": "must be keys with values",
    "dict_type": "must be keys with values",
    "model_type": "must be keys with values",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be auto, cpu, mps, cuda or cuda:N",
}

_BOUNDS: Mapping[str, str] = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def _wrong(details: Sequence[ErrorDetails], key: Key, data: Any) -> str:
    """One sentence for a value; several details are the alternatives that it could have been."""
    for detail in details:
        if detail["type"] == "not_yet":
            return detail["msg"]
    for step in key:
        data = data[step]
    allowed = dict.fromkeys(_allowed(detail) for detail in details)
    return f"{' or '.join(allowed).replace(' or must be ', ' or ')}; found {_shown(data)}"


def _allowed(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind in _BOUNDS:
        bound = next(iter(context.values()))
        return f"must be {_BOUNDS[kind]} {int(bound) if bound == int(bound) else bound}"
    return _WORDS.get(kind, detail["msg"])


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "keys with values"
    if isinstance(value, list):
        return "a list"
    shown = printable(value, _MAX_VALUE)
    return f'"{shown}"' if isinstance(value, str) else shown
