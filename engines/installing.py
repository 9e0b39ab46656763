"""The command that installs what an engine needs, for the place that voicespool itself was installed from."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")


@cache
def for_extra(name: str, *packages: str) -> str:
    """The command that brings an optional part of voicespool into the environment that runs now.

    From an editable checkout it installs the checkout's extra; from anywhere else the libraries that the extra stands
    for, since no registry has to know voicespool. `direct_url.json` is specified in PEP 610.

    Args:
        name: Of the extra, as in pyproject.toml.
        packages: Its libraries, for where the metadata of voicespool can't be read.
    """
    try:
        installed = distribution("voicespool")
    except PackageNotFoundError:
        return _install(*packages)
    if checkout := _checkout(installed):
        return _install("-e", f"{checkout}[{name}]")
    return _install(*(_requirements(installed, name) or packages))


def for_package(name: str, *options: str) -> str:
    """The same for a library that voicespool always needs, with options of `pip install`."""
    try:
        needed = [line for line in _requirements(distribution("voicespool")) if _name(line) == name.lower()]
    except PackageNotFoundError:
        needed = []
    return _install(*options, *(needed or [name]))


def is_command(text: str) -> bool:
    """Whether a text is such a command, which is shown in one line so that it can be copied."""
    return text.startswith((shlex.join([sys.executable, "-m", "pip", "install"]), "uv pip install "))


def _install(*what: str) -> str:
    pip = [sys.executable, "-m", "pip", "install"]
    if find_spec("pip") is None:  # as in an environment that uv made
        pip = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*pip, *what])


def _checkout(installed: Distribution) -> str:
    """The folder of an editable installation; "" for any other."""
    try:
        source = json.loads(installed.read_text("direct_url.json") or "{}")
        folder = unquote(urlsplit(source["url"]).path)
        return folder if source["dir_info"]["editable"] is True and os.path.isdir(folder) else ""
    except (ValueError, KeyError, TypeError):
        return ""


def _requirements(installed: Distribution, extra: str | None = None) -> list[str]:
    """What voicespool requires, or one of its extras alone, as pip takes it: `f5-tts<1.2,>=1.1.22`."""
    parts = [line.partition(";") for line in installed.requires or ()]
    named = [(requirement.strip(), _EXTRA.search(marker)) for requirement, _semicolon, marker in parts]
    return [requirement for requirement, found in named if (found[1] if found else None) == extra]


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
