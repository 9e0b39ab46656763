"""A small YAML or JSON file that lies beside a model: read as nested mappings of texts, within bounds.

Such files are written by trainers and by people, and come from strangers like the models themselves. Nothing but
mappings and plain values is wanted here; what is in lists is passed over. The parser's events are read one by one, so
that no file exhausts the stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml import events

LARGEST = 64 << 10
"""Bytes; a training configuration of f5-tts has 2,000."""

_MAX_EVENTS, _DEEPEST = 10_000, 16
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STARTS = (events.MappingStartEvent, events.SequenceStartEvent)
_ENDS = (events.MappingEndEvent, events.SequenceEndEvent)


def read(path: Path) -> Mapping[str, Any]:
    """What a file says: text -> text, a mapping again, or `()` for a list. Texts stay as written: `False`, `null`, `1`.

    Raises:
        OSError: It can't be read.
        ValueError: It is no mapping, or too large or too deep, or has aliases or a key twice.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError("it is too large")
    return parse(data.decode("utf-8-sig"))


def parse(text: str) -> Mapping[str, Any]:
    """As `read`, from text."""
    try:
        loader = _Loader(text)
        try:
            return _mappings(loader)
        finally:
            loader.dispose()
    except yaml.YAMLError:
        raise ValueError("it is no YAML") from None


def _mappings(loader: Any) -> Mapping[str, Any]:
    found = _Mappings()
    for _ in range(_MAX_EVENTS):
        if (event := loader.get_event()) is None:
            return found.root()
        found.take(event)
    raise ValueError("there is too much in it")


class _Mappings:
    """Puts mappings together from the parser's events; what is inside a list goes nowhere."""

    def __init__(self) -> None:
        self._open: list[dict[str, Any] | None] = []  # None stands for a list
        self._keys: list[str | None] = []
        self._root: dict[str, Any] | None = None

    def root(self) -> Mapping[str, Any]:
        if self._root is None:
            raise ValueError("it is no mapping")
        return self._root

    def take(self, event: Any) -> None:
        if isinstance(event, events.AliasEvent):
            raise ValueError("it has aliases")
        if isinstance(event, _STARTS):
            self._begin({} if isinstance(event, events.MappingStartEvent) else None)
        elif isinstance(event, _ENDS):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, events.ScalarEvent):
            self._scalar(event.value)

    def _begin(self, container: dict[str, Any] | None) -> None:
        if len(self._open) == _DEEPEST:
            raise ValueError("it is too deep")
        if not self._open and self._root is None:
            self._root = container
        self._place(container)
        self._open.append(container)
        self._keys.append(None)

    def _scalar(self, text: str) -> None:
        if self._open and self._open[-1] is not None and self._keys[-1] is None:
            if text in self._open[-1]:
                raise ValueError("it has a key twice")
            self._keys[-1] = text
        else:
            self._place(text)

    def _place(self, value: object) -> None:
        """Put a value under the key that waits for one."""
        if self._open and (mapping := self._open[-1]) is not None:
            key, self._keys[-1] = self._keys[-1], None
            if key is None:
                raise ValueError("a key of it is no text")
            mapping[key] = () if value is None else value
