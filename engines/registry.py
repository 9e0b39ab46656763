"""Engines by name: built-in ones, and plugins from other packages.

A plugin is a package with an entry point in the group `voicespool.engines` that names a class with the methods of
`engines.base.Engine`. A plugin that fails to import is listed as missing, with the reason; the spool starts anyway.
Searching for plugins takes about 5 ms with sixty packages installed, so it is done once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import cast

from engines.base import Device, EngineClass, EngineInfo
from engines.errors import SHORTAGES, EngineMissing

GROUP = "voicespool.engines"

_BUILT_IN = {"espeak": "engines.espeak.engine:Espeak", "f5": "engines.f5.engine:F5", "xtts": "engines.xtts.engine:Xtts"}

_PLANNED = {
    "piper": "piper is planned for a later version; until then use espeak",
}


@cache
def engines() -> Mapping[str, EngineClass]:
    """All engines by name, including those that can't run (`info().missing`).

    Built-in and planned engines take precedence over plugins with their name; among plugins the first one found does.
    """
    found = {}
    for name, place in _BUILT_IN.items():
        module, _, attribute = place.partition(":")
        found[name] = cast(EngineClass, getattr(import_module(module), attribute))
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name not in found and point.name not in _PLANNED:
            found[point.name] = _plugin(point)
    return MappingProxyType(found)


def planned() -> Mapping[str, str]:
    """Engines that this version does not have yet: name -> error for jobs that name it."""
    return MappingProxyType(_PLANNED)


def _plugin(point: EntryPoint) -> EngineClass:
    package = point.dist.name if point.dist is not None else point.value
    try:
        engine = cast(EngineClass, point.load())
        name = engine.info().name
    except MemoryError:
        raise  # temporary, but the result would be cached
    except (Exception, SystemExit) as error:  # unknown code may raise anything
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            raise
        return _missing(point.name, package, f"{type(error).__name__}: {error}")
    if name != point.name:
        return _missing(point.name, package, f"its info() has the name {name!r}, its entry point {point.name!r}")
    return engine


def _missing(name: str, package: str, reason: str) -> EngineClass:
    """The class of a plugin that is installed but does not work; loading it raises EngineMissing."""
    sentence = f"the plugin {package} does not work ({reason}); fix or remove that package"

    class Missing:
        @classmethod
        def info(cls) -> EngineInfo:
            return EngineInfo(
                name=name,
                title=f"{name} (plugin {package})",
                licence="unknown",
                library=package,
                version=None,
                missing=sentence,
                sample_rate_hz=0,
                languages=(),
            )

        @classmethod
        def match_language(cls, tag: str) -> str | None:  # noqa: ARG003 - it has no languages
            return None

        def load(self, checkpoint: object, device: Device) -> Mapping[str, object]:
            raise EngineMissing(sentence)

        def render(self, chunks: object) -> object:
            raise EngineMissing(sentence)

        def close(self) -> None:
            """Nothing to release."""

    return cast(EngineClass, Missing)
