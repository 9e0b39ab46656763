"""Collects the problems of a job file or a configuration, with line and key, for its author.

`Problems` collects them; `Format` explains pydantic's errors: unknown keys, wrong types, values out of range.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from files.printable import printable
from files.tree import Path, Problem, Tree, dotted

_MAX_SHOWN = 60
_MAX_COMPARED = 40
_MAX_LISTED = 8
NOT_YET = "not available in this version"
_REFUSED = "refused"  # type of errors made by `refused`


@dataclass(slots=True)
class Problems:
    """The problems of one document; only the first one for each key is kept.

    Attributes:
        tree: The document, for lines.
        max_problems: Further problems are only counted.
        moved: Settings that the file has at the top level, in the older form.
        warnings: Sentences about values that may be mistakes.
        found: Key -> its problem.
        more: Number of further problems.
    """

    tree: Tree
    max_problems: int
    moved: frozenset[str] = frozenset()
    warnings: tuple[Problem, ...] = ()
    found: dict[str, Problem] = field(default_factory=dict)
    more: int = 0

    def __post_init__(self) -> None:
        for problem in self.tree.problems:
            if problem.key in self.found or not self.full:
                self.found.setdefault(problem.key, problem)
            else:
                self.more += 1

    @property
    def full(self) -> bool:
        return len(self.found) >= self.max_problems

    def add(self, path: Path, message: str | Callable[[], str]) -> None:
        """Add a problem at a path. Pass a slow message as a function; it is called only if the problem is kept."""
        # The file has such a setting at the top level, so the message must name it there.
        if path[:1] == ("settings",) and path[1:2] and path[1] in self.moved:
            path = path[1:]
        key = dotted(path)
        if key in self.found:
            return
        if self.full:
            self.more += 1
            return
        sentence = message if isinstance(message, str) else message()
        self.found[key] = Problem(sentence, key, self.tree.line_of(path))

    def has(self, *paths: Path) -> bool:
        """Whether there is a problem at one of these paths or below it."""
        places = [dotted(path) for path in paths]
        return any(_inside(key, place) for place in places for key in self.found)

    def problems(self) -> tuple[Problem, ...]:
        """All problems in the order of the file."""
        in_order = sorted(self.found.values(), key=lambda problem: problem.line or 0)
        if self.more:
            in_order.append(Problem(f"and {self.more} more like these"))
        return tuple(in_order)


def _inside(key: str, place: str) -> bool:
    return key == place or (key.startswith(place) and key[len(place)] in ".[")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a key takes, in words that follow "expected"; part of the annotation of the key."""

    words: str


@dataclass(frozen=True, slots=True)
class Format:
    """A file format, such as that of job files: its keys, and advice on unknown keys.

    Attributes:
        model: Keys, types and ranges. What a key takes is described by its `Allowed`, its choices or its section;
            validators raise `refused`.
        further: Further keys at the top level, which the model does not have.
        instead: Unknown key -> what to write instead, a clause; "" if unknown.
    """

    model: type[BaseModel]
    further: tuple[str, ...] = ()
    instead: Callable[[str], str] = lambda _key: ""

    def explain(self, error: ValidationError, data: Any, problems: Problems) -> None:
        """Add pydantic's errors in `data` to `problems`, one sentence for each key."""
        by_path: dict[Path, list[ErrorDetails]] = {}
        for detail in error.errors(include_url=False, include_context=False, include_input=False):
            path = detail["loc"] if detail["type"] == "missing" else _reached(detail["loc"], data)
            by_path.setdefault(path, []).append(detail)
        outer = {path[:steps] for path in by_path for steps in range(len(path))}
        for path, details in by_path.items():
            if path not in outer:  # "too few valid items" adds nothing if each item has its own problem
                problems.add(path, partial(self._sentence, path, details, data))

    def _sentence(self, path: Path, details: Sequence[ErrorDetails], data: Any) -> str:
        """The message for one path; several details are the alternatives of a union."""
        kinds = {detail["type"] for detail in details}
        if "extra_forbidden" in kinds:
            return self._unknown(path)
        kind = _kind(self.model, path)
        words, choices = _words(kind), _choices(kind)
        if "missing" in kinds:
            return f"missing; expected {words}"
        for step in path:
            data = data[step]
        for detail in details:
            if detail["type"] == _REFUSED:
                return NOT_YET if detail["msg"] == NOT_YET else f"found {shown(data)}; {detail['msg']}"
        if words == "text" and isinstance(data, int | float):
            return f"found {shown(data)}; expected text: put it in quotes"
        return f"found {shown(data)}; expected {words}{nearest(data, choices)}"

    def _unknown(self, path: Path) -> str:
        """The message for an unknown key: where it belongs, else what to write instead, else the nearest known key."""
        key = str(path[-1])
        here = _section(_kind(self.model, path[:-1])) or self.model
        known: dict[str, str] = {name: name for name in here.model_fields}
        known |= {name: name for name in self.further} if here is self.model else {}
        few = listed(known, _MAX_LISTED)
        for place, section in _sections(self.model):
            if key in section.model_fields:
                return f"unknown key; it belongs {f'under `{place}`' if place else 'at the top level'}"
            for name in section.model_fields if place else ():
                known.setdefault(name, f"{place}.{name}")
        if instead := self.instead(key):
            return f"unknown key; {instead}"
        near = closest(key, known)
        return f"unknown key; did you mean `{known[near]}`?" if near else f"unknown key; available here: {few}"


def refused(clause: str) -> PydanticCustomError:
    """The error that validators of a `Format` raise. `clause` says why a value is wrong; it follows "found X; "."""
    return PydanticCustomError(_REFUSED, "{clause}", {"clause": clause})


def _reached(loc: Path, data: Any) -> Path:
    """The part of pydantic's location that exists in the data; the rest names alternatives of a union."""
    for steps, step in enumerate(loc):
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return loc[:steps]
    return loc


def _kind(model: type[BaseModel], path: Path) -> Any:
    """The annotation of the value at a path, or of its nearest ancestor in the model."""
    kind: Any = model
    for step in path:
        if isinstance(step, int):
            inner = next((get_args(part)[0] for part in _parts(kind) if get_origin(part) is tuple), None)
        else:
            section = _section(kind)
            inner = section.model_fields.get(step) if section else None
        if inner is None:
            break
        kind = inner
    return kind


def _parts(kind: Any) -> Iterator[Any]:
    """The metadata of a value, its types, and those of its items, in this order."""
    if isinstance(kind, FieldInfo):
        yield from kind.metadata
        yield from _parts(kind.annotation)
    else:
        yield kind
        is_annotated = hasattr(kind, "__metadata__")
        yield from kind.__metadata__ if is_annotated else ()
        for inner in get_args(kind)[:1] if is_annotated else get_args(kind):
            yield from _parts(inner)


def _section(kind: Any) -> type[BaseModel] | None:
    return next((part for part in _parts(kind) if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The model and its sections, each with its key; sections are not nested."""
    yield "", model
    for name, about in model.model_fields.items():
        if section := _section(about):
            yield name, section


def _choices(kind: Any) -> tuple[str, ...]:
    return tuple(choice for part in _parts(kind) if get_origin(part) is Literal for choice in get_args(part))


def _words(kind: Any) -> str:
    """What a key takes: the words of its `Allowed`, else its choices, else a section."""
    words = next((part.words for part in _parts(kind) if isinstance(part, Allowed)), "")
    *others, last = _choices(kind) or ("keys with values",)
    return words or " or ".join(filter(None, [", ".join(others), last]))


def shown(value: Any) -> str:
    """A short printable description of a value."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {printable(value, _MAX_SHOWN)}"
        case str():
            return f'"{printable(value, _MAX_SHOWN)}"' if value else "an empty text"
        case list() | tuple():
            return f"a list of {len(value)}" if value else "an empty list"
    return f"keys with values ({printable(', '.join(list(value)[:3]), _MAX_SHOWN)})" if value else "an empty mapping"


def nearest(word: object, known: Iterable[str]) -> str:
    """`; did you mean …?` with the nearest known word, or "" if none is near."""
    near = closest(word, known) if isinstance(word, str) else ""
    return f"; did you mean `{near}`?" if near else ""


def closest(word: str, known: Iterable[str]) -> str:
    """The nearest known word, or "" if none is near."""
    return _closest(word, tuple(known)) if len(word) <= _MAX_COMPARED else ""


@lru_cache(maxsize=1000)
def _closest(word: str, known: tuple[str, ...]) -> str:
    by_form = {name.lower().replace("-", "_"): name for name in known}
    form = word.strip().lower().replace("-", "_")
    # `wav` means `speaker_wav`: a complete part of a key is nearer than any key with similar letters.
    parts = [name for name in by_form if len(form) > 2 and form in name.split("_")]
    close = parts[:1] or get_close_matches(form, by_form, n=1, cutoff=0.6)
    return by_form[close[0]] if close else ""


def listed(names: Collection[str], max_names: int = 20) -> str:
    """`a, b and c`; a long list is cut."""
    shown_names = [printable(name, _MAX_SHOWN) for name in list(names)[:max_names]]
    if len(names) > max_names:
        return ", ".join(shown_names) + f" and {len(names) - max_names} more"
    return " and ".join(filter(None, [", ".join(shown_names[:-1]), *shown_names[-1:]]))
