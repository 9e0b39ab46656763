"""The text of config.yaml, read, and all its problems as one error, each with line and key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from files import yaml12
from files.printable import printable
from files.tree import Bounds, Problem, Tree, UnreadableText
from jobs.errors import ConfigError

EMPTY = Tree({}, 1, {})
MAX_BYTES = 1024 * 1024


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
