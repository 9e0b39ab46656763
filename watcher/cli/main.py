"""The entry point: exit codes, and the one place where errors become words.

Data goes to stdout; the log, progress and errors go to stderr. Users rely on the exit codes:

    0 all well · 1 a job failed or is invalid · 2 usage · 3 configuration · 4 engine or model missing
    70 a bug · 75 another daemon has this inbox, or on hold · 130 interrupted
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import traceback
from importlib.metadata import version

import click
from click.exceptions import NoArgsIsHelpError

from engines.errors import EngineError, EngineMissing
from files.printable import printable, real_paths
from jobs.errors import SpoolError
from watcher.cli import commands_jobs, commands_models
from watcher.cli.commands import commands, complain, fitted
from watcher.cli.help import ReaderLeft

commands_jobs.join(commands)
commands_models.join(commands)

BUG, HOLD, INTERRUPTED, ENGINE_MISSING = 70, 75, 130, 4


def main() -> None:
    """Entry point of `voicespool`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal can't show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    sys.exit(answer(sys.argv[1:]))


def answer(arguments: list[str]) -> int:
    """Run one command and return its exit code. Every error ends here, in words."""
    try:
        code = commands.main(arguments, prog_name="voicespool", standalone_mode=False)
        sys.stdout.flush()
    except SpoolError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except EngineError as error:
        return _complain(error.message, error.hint, ENGINE_MISSING if isinstance(error, EngineMissing) else 1)
    except click.ClickException as error:
        return _refuse(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (ReaderLeft, BrokenPipeError):
        return _reader_left()
    except OSError as error:
        name = (
            f"{printable(real_paths(os.fsdecode(error.filename)))}: " if isinstance(error.filename, str | bytes) else ""
        )
        return _complain(f"{name}{error.strerror or error}", "`voicespool doctor` checks the folders.", HOLD)
    except Exception as error:  # noqa: BLE001 - the last one who can say anything
        return _report(error, arguments)
    return code if isinstance(code, int) else 0


def _complain(message: str, hint: str, code: int) -> int:
    complain(message, hint)
    return code


def _refuse(error: click.ClickException) -> int:
    """As click shows it, in lines that fit."""
    if isinstance(error, NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(f"{error.ctx.get_usage()}\nTry `{error.ctx.command_path} --help` for help.\n", err=True)
    for line in f"Error: {error.format_message()}".splitlines():
        click.echo(fitted(line), err=True)
    return error.exit_code


def _reader_left() -> int:
    """`voicespool … | head`: the reader has what it wanted. Nothing may be written at the end of Python either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _report(error: Exception, arguments: list[str]) -> int:
    """A report worth pasting: what ran where, and the traceback; no values of options, they may be private."""
    shown = [_without_value(word) for word in arguments]
    lines = [
        "voicespool: this is a bug. Please report it with these lines:",
        f"  voicespool {version('voicespool')}, Python {platform.python_version()}, {platform.platform()}",
        f"  command: voicespool {' '.join(shown)}",
        *("  " + line for line in "".join(traceback.format_exception(error)).splitlines()),
    ]
    with contextlib.suppress(OSError):
        click.echo("\n".join(map(printable, lines)), err=True)
    return BUG


def _without_value(word: str) -> str:
    if word.startswith("-"):
        return word.partition("=")[0]
    return word if word in commands.commands else "…"
