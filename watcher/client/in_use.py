"""The configuration as the running daemon uses it, for commands that need the daemon's own folders.

config.yaml may have changed since the daemon read it, or be invalid now. The daemon's folders are in `status.json`;
they are used if it runs on this machine with the state folder that the file names.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from jobs.errors import ConfigError
from watcher.client.status import look
from watcher.config.settings import FOLDERS, Config, load, salvaged


def find(path: Path | None) -> tuple[Config, ConfigError | None]:
    """Read the configuration, also a wrong one as far as it names folders, and ask the running daemon for its own.

    Returns:
        The configuration, and what is wrong with it. Of a wrong one only the folders are to be used.

    Raises:
        ConfigError: It can't be read at all.
    """
    try:
        return of_daemon(load(path)), None
    except ConfigError as error:
        config = salvaged(path)
        if config is None:
            raise
        return of_daemon(config), error


def of_daemon(config: Config) -> Config:
    """The configuration with the folders that the running daemon uses; as it is where none runs here."""
    snapshot = look(config)
    if snapshot.daemon is None or snapshot.daemon.get("host") != socket.gethostname():
        return config
    settings = snapshot.status.config
    if settings is None or not all(getattr(settings, name) for name in FOLDERS):
        return config
    try:  # a container may have the host's name and other paths
        if not os.path.samefile(settings.state_dir, config.state_dir):
            return config
    except (OSError, ValueError):
        return config
    return config.model_copy(update={name: Path(getattr(settings, name)) for name in FOLDERS})
