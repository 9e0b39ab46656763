"""Reloading config.yaml in a running daemon, and the report about it in status.json.

The keys in `NEEDS_RESTART` keep their values until a restart; all others take effect at once. docs/OPERATIONS.md has
the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.printable import printable
from jobs.results.report import iso
from watcher.config.settings import CONFIG_NAME, FOLDERS, Config, Section, apart

NEEDS_RESTART = tuple(name for name in FOLDERS if name != "models")
"""The folders that the claims, the lock and the file events belong to."""


@dataclass(frozen=True, slots=True)
class ConfigRead:
    """The last time the file was read.

    Attributes:
        at_s: Unix time in seconds.
        changed: Keys (`limits.attempts`) that took effect then.
        pending_restart: Keys that take effect after a restart.
        error: What is wrong with the file; "" if nothing.
    """

    at_s: float
    changed: tuple[str, ...] = ()
    pending_restart: tuple[str, ...] = ()
    error: str = ""

    @classmethod
    def of(cls, fresh: Config, used: Config, now_s: float) -> ConfigRead:
        """A reading without error, compared with the configuration in use until now."""
        keys = tuple(changed_keys(used, fresh))
        pending = tuple(key for key in keys if key in NEEDS_RESTART)
        return cls(now_s, tuple(key for key in keys if key not in pending), pending)


def until_restart(fresh: Config, used: Config) -> Config:
    """The part of a new configuration that takes effect without a restart.

    Raises:
        ConfigError: The new `models` folder overlaps a folder that stays until the restart.
    """
    return apart(fresh.model_copy(update={name: getattr(used, name) for name in NEEDS_RESTART}))


def changed_keys(before: Section, after: Section) -> Iterator[str]:
    """Dotted keys whose values differ, in the order of the schema."""
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, Section):
            yield from (f"{name}.{key}" for key in changed_keys(old, new))
        elif old != new:
            yield name


def config_in_status(config: Config, path: Path | None, read: ConfigRead) -> dict[str, Any]:
    """`config` in status.json; see `watcher.client.status.Settings`."""
    file = path or Path(CONFIG_NAME)
    return {
        "file": str(file.absolute()) if path is not None or file.exists() else None,
        **{name: str(getattr(config, name)) for name in FOLDERS},
        "read_at": iso(read.at_s),
        "changed": list(read.changed),
        "pending_restart": list(read.pending_restart),
        "error": printable(read.error) or None,
    }
