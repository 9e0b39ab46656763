"""Everything that is wrong with one job, with line and key, in words for the person who wrote it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from files.printable import printable
from files.tree import Path, Problem, Tree, dotted

_MAX_SHOWN = 60
_MAX_COMPARED = 40


@dataclass(slots=True)
class Problems:
    """Collects problems; the first one for each key counts.

    Attributes:
        tree: The document, for lines.
        most: Further problems are counted, not kept.
        moved: Settings that are written at the top level, in the older form.
        warnings: What is odd, but not wrong.
    """

    tree: Tree
    most: int
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
        return len(self.found) >= self.most

    def add(self, path: Path, message: str | Callable[[], str]) -> None:
        """Note what is wrong at a place. A message that costs something is a function, called only if it is shown."""
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
        """Whether something is wrong at one of these places or inside of it."""
        places = [dotted(path) for path in paths]
        return any(_inside(key, place) for place in places for key in self.found)

    def problems(self) -> tuple[Problem, ...]:
        """All of them in the order of the file."""
        in_order = sorted(self.found.values(), key=lambda problem: problem.line or 0)
        if self.more:
            in_order.append(Problem(f"and {self.more} more like these"))
        return tuple(in_order)


def _inside(key: str, place: str) -> bool:
    return key == place or (key.startswith(place) and key[len(place)] in ".[")


def shown(value: Any) -> str:
    """A value as a person would say it, safe to print, never long."""
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
    """` did you mean …?` with the nearest known word, or "" when none is near."""
    if not isinstance(word, str) or len(word) > _MAX_COMPARED:
        return ""
    return _nearest(word, tuple(known))


@lru_cache(maxsize=1000)
def _nearest(word: str, known: tuple[str, ...]) -> str:
    by_form = {name.lower().replace("-", "_"): name for name in known}
    form = word.strip().lower().replace("-", "_")
    parts = [name for name in by_form if len(form) > 2 and form in name.split("_")]
    close = parts[:1] or get_close_matches(form, by_form, n=1, cutoff=0.6)
    return f"; did you mean `{by_form[close[0]]}`?" if close else ""


def listed(names: Collection[str], most: int = 20) -> str:
    """`a, b and c`; a long list is cut."""
    shown_names = [printable(name, _MAX_SHOWN) for name in list(names)[:most]]
    if len(names) > most:
        return ", ".join(shown_names) + f" and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(shown_names[:-1]), *shown_names[-1:]]))
