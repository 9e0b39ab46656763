"""How commands are listed in `--help`: in groups, each with its summary in one line."""

from __future__ import annotations

from typing import Any

import click

GROUPS = {
    "Jobs": ("submit", "status", "retry", "cancel", "validate"),
    "Spool": ("run", "reload"),
    "Models and voices": ("engines", "models", "checkpoints", "voices"),
    "Setup": ("init", "doctor", "schema"),
}
SUMMARY_CHARS = 50


def summary(command: click.Command) -> str:
    """The first sentence of a command's help, without its full stop: at most `SUMMARY_CHARS` characters."""
    return (command.help or "").partition("\n\n")[0].strip().removesuffix(".")


class Group(click.Group):
    """A group of commands whose summaries are never cut."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        left = [name for name in self.commands if not any(name in names for names in GROUPS.values())]
        for title, names in [*GROUPS.items(), ("Commands", tuple(left))]:
            rows = [(name, summary(self.commands[name])) for name in names if name in self.commands]
            if rows:
                with formatter.section(title):
                    width = max(map(len, self.commands))
                    formatter.write_dl([(name.ljust(width), said) for name, said in rows])


class Main(Group):
    """All commands. A reader that left is not an error of click's."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError as error:
            raise ReaderLeft from error


class ReaderLeft(Exception):
    """Nobody reads stdout any more (`voicespool … | head`). click would turn the plain error into exit code 1."""
