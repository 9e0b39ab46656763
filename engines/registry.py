"""Which engines there are: those built in, and plugins that other packages bring.

A plugin is a package with an entry point in the group `voicespool.engines` that names a class with the methods of
`engines.base.Engine`. Nobody's plugin can keep the spool from starting: one that fails to import is listed as
missing, with the reason. Looking for plugins costs about 5 ms where sixty packages are installed, so it is done once.
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
    "piper": "this version has no piper engine yet; espeak works, and voicespool's changelog says when piper arrives",
}


@cache
def engines() -> Mapping[str, EngineClass]:
    """All engines by name, those that can't run here included (`info().missing` says why not).

    A plugin can't take the name of a built-in or planned engine; of two plugins of one name the first found counts.
    """
    found = {name: _import(place) for name, place in _BUILT_IN.items()}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name not in found and point.name not in _PLANNED:
            found[point.name] = _plugin(point)
    return MappingProxyType(found)


def planned() -> Mapping[str, str]:
    """Engines that job files may name but this version does not have: name -> sentence that says so."""
    return MappingProxyType(_PLANNED)


def _import(place: str) -> EngineClass:
    module, _, attribute = place.partition(":")
    return cast(EngineClass, getattr(import_module(module), attribute))


def _plugin(point: EntryPoint) -> EngineClass:
    package = point.dist.name if point.dist is not None else point.value
    try:
        engine = cast(EngineClass, point.load())
        said = engine.info().name
    except MemoryError:
        raise  # passing, and what is found here is kept
    except (Exception, SystemExit) as error:  # a stranger's code: whatever it does, the spool starts
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            raise
        return _missing(point.name, package, f"{type(error).__name__}: {error}")
    if said != point.name:
        return _missing(point.name, package, f"it calls itself {said!r}, its entry point {point.name!r}")
    return engine


def _missing(name: str, package: str, reason: str) -> EngineClass:
    """A class that stands for an engine which is installed but can't be used."""
    sentence = f"the plugin {package} does not work here ({reason}); fix or remove that package"

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
        def match_language(cls, tag: str) -> str | None:  # noqa: ARG003 - it speaks nothing
            return None

        def load(self, checkpoint: object, device: Device) -> Mapping[str, object]:
            raise EngineMissing(sentence)

        def render(self, chunks: object) -> object:
            raise EngineMissing(sentence)

        def close(self) -> None:
            """Nothing was taken."""

    return cast(EngineClass, Missing)
