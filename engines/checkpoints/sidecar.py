"""Small YAML or JSON files next to a model, read as nested mappings of strings, within bounds.

Trainers and people write such files, and they are as untrusted as the models themselves. Only mappings and scalars are
read; lists are skipped. The parser's events are read one by one, so no file can exhaust the stack, and no tag or alias
is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml import events

MAX_BYTES = 64 << 10
"""A training configuration of f5-tts has 2,000 bytes."""

_MAX_EVENTS, _MAX_DEPTH = 10_000, 16
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STARTS = (events.MappingStartEvent, events.SequenceStartEvent)
_ENDS = (events.MappingEndEvent, events.SequenceEndEvent)


def read(path: Path) -> Mapping[str, Any]:
    """Read a file: key -> string, mapping, or `()` for a list. Scalars stay as written: `False`, `null`, `1`.

    Raises:
        OSError: The file can't be read.
        ValueError: It is not a mapping in UTF-8, is larger than 64 KiB or nested deeper than 16 levels, or has aliases
            or duplicate keys.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("it is too large")
    return parse(data.decode("utf-8-sig"))


def parse(text: str) -> Mapping[str, Any]:
    """The same from text; raises ValueError as `read` does."""
    try:
        loader = _Loader(text)
        try:
            return _mappings(loader)
        finally:
            loader.dispose()
    except yaml.YAMLError:
        raise ValueError("it is not YAML") from None


def _mappings(loader: Any) -> Mapping[str, Any]:
    builder = _MappingBuilder()
    for _ in range(_MAX_EVENTS):
        if (event := loader.get_event()) is None:
            return builder.root()
        builder.take(event)
    raise ValueError("it has too many values")


class _MappingBuilder:
    """Builds mappings from the parser's events; values inside lists are dropped."""

    def __init__(self) -> None:
        self._open: list[dict[str, Any] | None] = []  # from the root to the innermost container; None for a list
        self._keys: list[str | None] = []  # of each container, the key without a value yet
        self._root: dict[str, Any] | None = None

    def root(self) -> Mapping[str, Any]:
        if self._root is None:
            raise ValueError("it is not a mapping")
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
        if len(self._open) == _MAX_DEPTH:
            raise ValueError("it is nested too deep")
        if not self._open and self._root is None:
            self._root = container
        self._place(container)
        self._open.append(container)
        self._keys.append(None)

    def _scalar(self, text: str) -> None:
        # A scalar in a mapping is a key, unless it follows one.
        if self._open and self._open[-1] is not None and self._keys[-1] is None:
            if text in self._open[-1]:
                raise ValueError("it has a duplicate key")
            self._keys[-1] = text
        else:
            self._place(text)

    def _place(self, value: object) -> None:
        """Set the value of the last key; values inside a list are dropped."""
        if self._open and (mapping := self._open[-1]) is not None:
            key, self._keys[-1] = self._keys[-1], None
            if key is None:
                raise ValueError("it has a key that is not text")
            mapping[key] = () if value is None else value
