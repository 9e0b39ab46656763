"""The command that installs the packages of an engine into the environment that voicespool runs in."""

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
    """The command that installs an extra of voicespool.

    For an editable checkout it installs the extra of the checkout; otherwise the requirements of the extra, since
    voicespool itself may be in no registry. `direct_url.json` is specified in PEP 610.

    Args:
        name: Of the extra, as in pyproject.toml.
        packages: Its requirements, used if the metadata of voicespool can't be read.
    """
    try:
        installed = distribution("voicespool")
    except PackageNotFoundError:
        return _install(*packages)
    if checkout := _checkout(installed):
        tested = os.path.join(checkout, "constraints.txt")  # the versions that the checkout was tested with
        return _install(*(("-c", tested) if os.path.isfile(tested) else ()), "-e", f"{checkout}[{name}]")
    return _install(*(_requirements(installed, name) or packages))


def for_package(name: str, *options: str) -> str:
    """The command that installs a requirement of voicespool itself, with options of `pip install`."""
    try:
        needed = [line for line in _requirements(distribution("voicespool")) if _name(line) == name.lower()]
    except PackageNotFoundError:
        needed = []
    return _install(*options, *(needed or [name]))


def is_command(text: str) -> bool:
    """Whether a text is a command from this module. It is shown in one line, so that it can be copied."""
    return text.startswith((shlex.join([sys.executable, "-m", "pip", "install"]), "uv pip install "))


def _install(*arguments: str) -> str:
    pip = [sys.executable, "-m", "pip", "install"]
    if find_spec("pip") is None:  # as in an environment made by uv
        pip = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*pip, *arguments])


def _checkout(installed: Distribution) -> str:
    """Folder of an editable installation; "" for any other kind."""
    try:
        source = json.loads(installed.read_text("direct_url.json") or "{}")
        folder = unquote(urlsplit(source["url"]).path)
        return folder if source["dir_info"]["editable"] is True and os.path.isdir(folder) else ""
    except (ValueError, KeyError, TypeError):
        return ""


def _requirements(installed: Distribution, extra: str | None = None) -> list[str]:
    """Requirements of voicespool without extras, or of one extra only: `f5-tts<1.2,>=1.1.22`."""
    parts = [line.partition(";") for line in installed.requires or ()]
    named = [(requirement.strip(), _EXTRA.search(marker)) for requirement, _semicolon, marker in parts]
    return [requirement for requirement, found in named if (found[1] if found else None) == extra]


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
