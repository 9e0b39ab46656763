"""The commands about what engines speak with: `checkpoints`, `models`, `voices`.

As in `watcher.commands`, each says here what it takes and prints; what it does is in the module of its name.
"""

from __future__ import annotations

import click


@click.group()
def checkpoints() -> None:
    """The fine-tuned models under models/: what each file is, and whether it will load."""


@click.group()
def models() -> None:
    """The base models that engines speak with."""


@click.group()
def voices() -> None:
    """The voices that jobs can name."""


def join(commands: click.Group) -> None:
    """Put these groups among the commands of `voicespool`."""
    for group in (checkpoints, models, voices):
        commands.add_command(group)
