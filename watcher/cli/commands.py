"""The commands of `voicespool` that run it and look at it; those about jobs and models have modules of their own.

Each says here what it takes and prints; what it does is in the module of its name.

Data goes to stdout; the log, progress and errors go to stderr. A command returns its exit code; errors go up to
`watcher.cli.main`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from files.printable import printable, printable_json, shell_word, short_path, wrapped
from jobs.errors import ConfigError, Hold
from watcher import log as logging
from watcher.cli.help import Main
from watcher.config.settings import Config, load

if TYPE_CHECKING:
    from rich.console import Console

    from watcher.client.status import Snapshot
    from watcher.doctor.finding import Finding


WRONG = 1
WATCH_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class App:
    """The options before the command."""

    config_path: Path | None
    level: logging.Level

    def config(self) -> Config:
        """As config.yaml says."""
        return load(self.config_path)

    def config_in_use(self) -> Config:
        """The same with the folders of the running daemon, which may have read another file."""
        from watcher.client.in_use import of_daemon

        return of_daemon(self.config())

    def in_use(self) -> tuple[Config, ConfigError | None]:
        """The same for commands that need the folders alone, and what is wrong with the file, if anything."""
        from watcher.client.in_use import find

        return find(self.config_path)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    envvar="VOICESPOOL_CONFIG",
    metavar="FILE",
    help="Configuration file ($VOICESPOOL_CONFIG, else ./config.yaml, else built-in defaults).",
)
@click.option("-v", "--verbose", is_flag=True, help="Log debug messages too.")
@click.option("-q", "--quiet", is_flag=True, help="Log only warnings and errors.")
@click.version_option(package_name="voicespool", message="voicespool %(version)s")
@click.pass_context
def commands(context: click.Context, config_path: Path | None, verbose: bool, quiet: bool) -> None:
    """A speech spooler: drop a job file into a folder, get a folder with audio.

    \b
    Set up:   voicespool init, then voicespool run
    Speak:    voicespool submit --text "Hello" --wait
    Look:     voicespool status
    """
    context.obj = App(config_path, "debug" if verbose else "warning" if quiet else "info")
    logging.configure(level=context.obj.level)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def command_of(group: click.Group, name: str | None = None) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a function a command of a group, under its own name or another; it gets the `App` first."""

    def command(function: Callable[..., int | None]) -> click.Command:
        @click.pass_obj
        @functools.wraps(function)
        def call(app: App, *args: Any, **options: Any) -> int | None:
            return function(app, *args, **options)

        return group.command(name or function.__name__)(call)

    return command


_command = command_of(commands)


@_command
@click.option("--once", is_flag=True, help="Render the jobs in the inbox, then exit (for cron).")
@click.option("--until-idle", is_flag=True, help="Exit when no job can be rendered now (for systemd).")
def run(app: App, once: bool, until_idle: bool) -> int:
    """Run the daemon: render jobs from the inbox.

    It runs until it is stopped. SIGTERM or Ctrl-C: the running chunk finishes, and the job is queued again with the
    chunks that are done. A second signal stops at once. SIGHUP: the configuration is read again.

    \b
    Example:  voicespool --config /srv/voicespool/config.yaml run
    Cron:     */5 * * * * cd /srv/voicespool && voicespool run --once
    """
    if once and until_idle:
        raise click.UsageError("give --once or --until-idle, not both")
    from watcher.config.job_rules import job_rules
    from watcher.daemon import loop

    config = app.config()
    job_rules(config)
    return loop.run(config, config_path=app.config_path, once=once, until_idle=until_idle)


@_command
@click.option("--watch", is_flag=True, help="Show every change until Ctrl-C.")
@json_option
def status(app: App, watch: bool, as_json: bool) -> int:
    """Show running, queued, waiting and finished jobs.

    Says why a job waits or failed. If config.yaml is invalid, the status is shown all the same, and the exit code is 3.

    \b
    Examples:  voicespool status
               voicespool status --watch
               voicespool status --json | jq .counts
    """
    config, error = app.in_use()
    if error is not None:
        complain(error.message, error.hint)
    if watch:
        return _watch(config, as_json)
    snapshot = _look(config)
    if as_json:
        wrong = {} if error is None else {"config_error": error.message}
        click.echo(in_json(snapshot.as_json() | wrong))
    else:
        from watcher.cli.display import layout
        from watcher.cli.display import status as display

        layout.show(display.status(snapshot, datetime.now(UTC)), sys.stdout)
    return 0 if error is None else error.exit_code


def _look(config: Config) -> Snapshot:
    """Look at the spool. Raises Hold when this user may not."""
    from watcher.client.status import UNSEEN_CURE, look

    snapshot = look(config)
    if snapshot.unseen:
        raise Hold(snapshot.unseen, UNSEEN_CURE)
    return snapshot


def _watch(config: Config, as_json: bool) -> int:
    """On a terminal one picture that changes; elsewhere each change on its own (with --json, one line each)."""
    from watcher.cli.display import layout
    from watcher.cli.display import status as display

    console = layout.console(sys.stdout)
    if console.is_terminal and not as_json:
        return _picture(config, console)
    before: object = None
    while True:
        snapshot = _look(config)
        if snapshot != before:
            before = snapshot
            if as_json:
                click.echo(in_json(snapshot.as_json(), indent=None))
            else:
                layout.show(display.status(snapshot, datetime.now(UTC)), sys.stdout)
            sys.stdout.flush()
        time.sleep(WATCH_EVERY_S)


def _picture(config: Config, console: Console) -> int:
    from rich.live import Live

    from watcher.cli.display import status as display

    with Live(console=console, auto_refresh=False) as live:
        while True:
            rows = max(3, (console.height - 22) // 6)
            live.update(display.status(_look(config), datetime.now(UTC), rows), refresh=True)
            time.sleep(WATCH_EVERY_S)


@_command
@json_option
def reload(app: App, as_json: bool) -> int:
    """Make the running daemon read config.yaml again.

    Prints which changed keys took effect, and which need a restart of the daemon. If the file is invalid, the daemon
    keeps its configuration, and the exit code is 3. Run this on the daemon's machine, as its user or as root.

    \b
    Example:  cd /srv/voicespool && sudo -u voicespool voicespool reload
    """
    from watcher.client.reload import reload as ask

    answer = ask(app.in_use()[0])
    if as_json:
        shown = {"file", "read_at", "changed", "pending_restart", "error"}
        click.echo(in_json(answer.model_dump(mode="json", include=shown)))
    elif answer.error:
        complain(answer.error, "The daemon keeps its previous configuration.")
    else:
        took_effect, pending = (
            ("took effect", answer.changed),
            ("needs a restart of the daemon", answer.pending_restart),
        )
        for words, keys in (took_effect, pending):
            if keys:
                click.echo(f"{words}: {printable(', '.join(keys))}")
        if not (answer.changed or answer.pending_restart):
            click.echo("no key has changed")
    return ConfigError.exit_code if answer.error else 0


# --- about the machine -----------------------------------------------------------------------------------------------


@_command
@click.argument("name", required=False)
@json_option
def engines(_app: App, name: str | None, as_json: bool) -> int:
    """List the engines, or show one with its settings.

    The list says which engines can run here, and how to install the others.

    \b
    Examples:  voicespool engines
               voicespool engines xtts
               voicespool engines --json | jq '.engines[].languages'
    """
    from engines import registry

    infos = [engine.info() for key, engine in registry.engines().items() if name in (None, key)]
    planned = {key: sentence for key, sentence in registry.planned().items() if name in (None, key)}
    if not (infos or planned):
        raise click.BadParameter(_unknown_engine(name or ""), param_hint="NAME")
    if as_json:
        click.echo(in_json({"engines": infos, "planned": planned}))
        return 0
    from watcher.cli.display import engines as display
    from watcher.cli.display import layout

    if name is None:
        layout.show(display.engines(infos, planned), sys.stdout)
    for info in infos if name is not None else ():
        layout.show(display.engine(info), sys.stdout)
    for key, sentence in planned.items() if name is not None else ():
        layout.show(display.planned_engine(key, sentence), sys.stdout)
    return 0


def _unknown_engine(name: str) -> str:
    from engines import registry
    from jobs.spec.problems import listed, nearest

    known = [*registry.engines(), *registry.planned()]
    return f"unknown engine {printable(name, 60)!r}; available: {listed(known)}{nearest(name, known)}"


@_command
@json_option
def doctor(app: App, as_json: bool) -> int:
    """Check the folders, libraries, engines and GPU.

    Changes nothing. Run it as the user that the daemon runs as. Exits with 3, 4 or 75 when the spool can't work.

    \b
    Example:  cd /srv/voicespool && sudo -u voicespool voicespool doctor
    """
    from watcher.cli.display import doctor as display
    from watcher.cli.display import layout
    from watcher.doctor import checks

    findings: list[Finding] = []
    for finding in checks.examine(app.config()):
        if not as_json:
            is_first = not findings or findings[-1].group != finding.group
            layout.show(display.finding(finding, is_first=is_first), sys.stdout)
        findings.append(finding)
    if as_json:
        click.echo(in_json(checks.as_json(findings)))
    else:
        layout.show(display.summary(findings), sys.stdout)
    return checks.exit_code(findings)


@_command
@click.argument("what", type=click.Choice(["job", "manifest", "config", "status"]))
def schema(_app: App, what: str) -> int:
    """Print a JSON Schema of the files.

    Of job files, of manifest.json, of config.yaml, or of status.json.

    \b
    Example:  voicespool schema job > job.schema.json
    """
    from engines import registry
    from jobs.results import manifest
    from jobs.spec import schema as job
    from watcher.client import status as writer
    from watcher.config import settings

    schemas: dict[str, Callable[[], dict[str, Any]]] = {
        "job": lambda: job.job_schema(registry.engines(), registry.planned()),
        "manifest": manifest.schema,
        "config": settings.schema,
        "status": writer.schema,
    }
    click.echo(in_json(schemas[what]()))
    return 0


@_command
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path, file_okay=False))
def init(_app: App, folder: Path) -> int:
    """Create a working folder with config.yaml.

    config.yaml explains every key. The folders and an example job are created too; the example is next to the inbox,
    not in it. Existing files stay as they are.

    \b
    Example:  voicespool init ~/voice
    """
    from watcher.cli import init

    for path, new in init.start(folder):
        click.echo(f"{'created' if new else 'kept':<7}  {short_path(path)}", err=True)
    click.echo("Next:")
    if folder != Path():
        click.echo(f"  cd {shell_word(folder)}")
    click.echo(f"  voicespool submit {init.EXAMPLE_NAME}")
    click.echo("  voicespool run --once")
    return 0


def complain(message: str, hint: str) -> None:
    """Say on stderr what is wrong, line by line, and what to do about it."""
    lines = [f"{'voicespool: ' if number == 0 else '  '}{line}" for number, line in enumerate(message.splitlines())]
    with contextlib.suppress(OSError):
        for line in [*lines, *([f"  {hint}"] if hint else [])]:
            click.echo(fitted(line), err=True)


def fitted(line: str) -> str:
    """A line for stderr: on a terminal in lines that fit, those after the first with an indent."""
    text = printable(line)
    if not sys.stderr.isatty():
        return text
    indent = len(text) - len(text.lstrip())
    first, *others = wrapped(text.lstrip(), shutil.get_terminal_size().columns - indent - 2) or [""]
    return "\n".join([" " * indent + first, *(" " * (indent + 2) + line for line in others)])


def in_json(value: Any, indent: int | None = 2) -> str:
    """JSON with readable text, in which nothing can steer a terminal."""
    return printable_json(json.dumps(value, indent=indent, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, type):
        return value.__name__
    return dict(value) if hasattr(value, "keys") else str(value)
