"""The commands of `voicespool`. Each says here what it takes and prints; what it does is in the module of its name.

Data goes to stdout; the log, progress and complaints go to stderr. A command returns its exit code; errors go up to
`watcher.cli`.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.errors import printable, printable_json
from watcher import log as logging
from watcher.config import Config, load

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.rules import Rules
    from watcher.submit import Dropped
    from watcher.validate import Checked

WRONG = 1
WATCH_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class App:
    """What comes before the command."""

    config_path: Path | None
    level: logging.Level

    def config(self) -> Config:
        return load(self.config_path)


class _Commands(click.Group):
    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError as error:
            raise ReaderLeft from error


class ReaderLeft(Exception):
    """Nobody reads stdout any more (`voicespool … | head`). click would turn the plain error into exit code 1."""


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    envvar="VOICESPOOL_CONFIG",
    metavar="FILE",
    help="The configuration. Default: $VOICESPOOL_CONFIG, else ./config.yaml if it is there, else defaults.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors only.")
@click.version_option(package_name="voicespool", message="voicespool %(version)s")
@click.pass_context
def commands(context: click.Context, config_path: Path | None, verbose: bool, quiet: bool) -> None:
    """A speech spooler: drop a job file into a folder, get a folder with the audio.

    \b
    Set up:  voicespool init, then voicespool run
    Speak:   voicespool submit --text "Hello" --wait
    Look:    voicespool status
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
@click.option("--once", is_flag=True, help="Render what is there and becomes ready, then exit (for cron).")
@click.option("--until-idle", is_flag=True, help="Exit when nothing can be rendered now (for systemd).")
def run(app: App, once: bool, until_idle: bool) -> int:
    """Run the daemon: render what is dropped into the inbox, until it is stopped.

    SIGTERM or Ctrl-C lets the running chunk finish and puts the job back with what is done; a second one kills.
    SIGHUP reads the configuration again.

    \b
    Example:  voicespool --config /srv/voice/config.yaml run
    Cron:     */10 * * * * voicespool --config /srv/voice/config.yaml run --once
    """
    if once and until_idle:
        raise click.UsageError("--once and --until-idle exclude each other")
    from watcher import daemon
    from watcher.job_rules import job_rules

    config = app.config()
    job_rules(config)
    return daemon.run(config, config_path=app.config_path, once=once, until_idle=until_idle)


@_command
@click.option("--watch", is_flag=True, help="Go on, and show every change, until Ctrl-C.")
@json_option
def status(app: App, watch: bool, as_json: bool) -> int:
    """Show what is running, queued, waiting, done and failed, and why.

    \b
    Examples:  voicespool status
               voicespool status --watch
               voicespool status --json | jq .counts
    """
    config = app.config()
    if watch:
        return _watch(config, as_json)
    from watcher.status import look

    snapshot = look(config)
    if as_json:
        click.echo(in_json(snapshot.as_json()))
    else:
        from watcher import display

        display.show(display.status(snapshot, datetime.now(UTC)), sys.stdout)
    return 0


def _watch(config: Config, as_json: bool) -> int:
    """On a terminal one picture that changes; elsewhere each change on its own (with --json, one line each)."""
    from watcher import display
    from watcher.status import look

    console = display.console(sys.stdout)
    if console.is_terminal and not as_json:
        return _picture(config, console)
    before: object = None
    while True:
        snapshot = look(config)
        if snapshot != before:
            before = snapshot
            if as_json:
                click.echo(in_json(snapshot.as_json(), indent=None))
            else:
                display.show(display.status(snapshot, datetime.now(UTC)), sys.stdout)
            sys.stdout.flush()
        time.sleep(WATCH_EVERY_S)


def _picture(config: Config, console: Console) -> int:
    from rich.live import Live

    from watcher import display
    from watcher.status import look

    with Live(console=console, auto_refresh=False) as live:
        while True:
            rows = max(3, (console.height - 14) // 5)
            live.update(display.status(look(config), datetime.now(UTC), rows), refresh=True)
            time.sleep(WATCH_EVERY_S)


@_command
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@json_option
def validate(app: App, files: tuple[Path, ...], as_json: bool) -> int:
    """Check job files by the daemon's own rules, without running them.

    Prints every problem as FILE:LINE: KEY: MESSAGE and exits with 1 if there is any. Recordings must lie beside the
    file or under voices/.

    \b
    Example:  voicespool validate examples/*.yaml
    """
    from watcher.job_rules import job_rules
    from watcher.validate import as_json as report
    from watcher.validate import check

    config = app.config()
    rules = job_rules(config)
    checked = [check(path, config, rules) for path in files]
    if as_json:
        click.echo(in_json(report(checked)))
    else:
        for one in checked:
            for sentence in one.sentences():
                click.echo(sentence)
            for warning in one.warnings():
                click.echo(warning, err=True)
            if not one.problems:
                jobs = f"{len(one.documents)} jobs" if len(one.documents) > 1 else "valid"
                click.echo(f"{printable(one.path)}: {jobs}", err=True)
    return WRONG if any(one.problems for one in checked) else 0


# --- submit ----------------------------------------------------------------------------------------------------------


def _name(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    from watcher.drop import checked_name

    try:
        return None if name is None else checked_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _settings(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """`speed=1.2`: values are read as in a job file."""
    from jobs.yaml12 import plain

    settings = {}
    for setting in given:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{printable(setting, 60)}: write KEY=VALUE, such as speed=1.2")
        settings[key] = plain(value)[0] if value else ""
    return settings


@_command
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option("--text", metavar="T", help="What to speak, instead of a FILE; - reads it from stdin.")
@click.option("--language", metavar="L", help="Of the text, such as pt-BR.")
@click.option("--engine", metavar="E", help="`voicespool engines` lists them.")
@click.option("--checkpoint", metavar="C", help="A fine-tuned model: a name under models/.")
@click.option("--speaker", metavar="S", help="A voice that the engine has built in.")
@click.option("--speaker-wav", multiple=True, metavar="WAV", help="A recording: a file, or a name under voices/.")
@click.option("--speaker-text", metavar="T", help="What is said in the first recording.")
@click.option("--setting", "settings", multiple=True, metavar="K=V", callback=_settings, help="Engine's own option.")
@click.option("--seed", type=click.IntRange(0), help="Default: follows from the content.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 (last) to 9 (first).")
@click.option("--not-before", metavar="TIME", help="Such as 2026-12-01T08:00:00-03:00.")
@click.option("--timeout-s", type=float, metavar="SECONDS", help="Longest rendering.")
@click.option("--name", metavar="N", callback=_name, help="Name of the job, FOLDER/NAME for a subfolder.")
@click.option("--wait", is_flag=True, help="Follow the jobs, print where each result is, exit with 1 if one failed.")
@click.option("--force", is_flag=True, help="Drop the file although something is wrong with it.")
@json_option
def submit(app: App, files: tuple[Path, ...], **options: Any) -> int:
    """Drop jobs into the inbox: job files, or a text.

    Files are checked first, as by `validate`; a wrong one is not dropped, and the exit code is 1. Recordings that lie
    beside FILE go with it. A name that is taken gets -2, -3, … Without --wait the path of each dropped file is
    printed, with --wait the folder of each result.

    \b
    Examples:  voicespool submit hello.yaml
               voicespool submit --text "Bom dia" --language pt-BR --wait
               voicespool submit --name radio/news news.yaml
    """
    from watcher.job_rules import job_rules
    from watcher.validate import check

    how = {key: options.pop(key) for key in ("name", "wait", "force", "as_json")}
    given = [key for key, value in options.items() if value not in (None, (), {})]
    if bool(files) == ("text" in given):
        raise click.UsageError("give job files, or --text, and not both")
    if files and given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} goes with --text; in a FILE it is a key")
    if how["name"] is not None and len(files) > 1:
        raise click.UsageError("--name is for one FILE")
    config = app.config()
    rules = job_rules(config)
    jobs = [check(path, config, rules) for path in files] or [_text_job(config, rules, options, how["name"])]
    return _submitted(config, jobs, how)


def _text_job(config: Config, rules: Rules, keys: dict[str, Any], name: str | None) -> Checked:
    """The job that the options describe, checked as if it were a file here."""
    from watcher.submit import name_from, text_job
    from watcher.validate import check_data

    if keys["text"] == "-":
        keys = {**keys, "text": sys.stdin.read()}
    here = {Path(given).name: Path(given) for given in keys["speaker_wav"] if Path(given).is_file()}
    names = [Path(given).name if Path(given).is_file() else given for given in keys["speaker_wav"]]
    if len(set(names)) < len(names):
        raise click.UsageError("two recordings have the same name")
    path = Path(f"{(name or name_from(keys['text'])).rpartition('/')[2]}.yaml")
    return check_data(path, text_job({**keys, "speaker_wav": names}), config, rules, here)


def _submitted(config: Config, jobs: list[Checked], how: dict[str, Any]) -> int:
    """Drop what is right (or all, with `force`), under `name`; with `wait` follow it."""
    from watcher.drop import checked_name
    from watcher.follow import Follower
    from watcher.submit import submit_file

    for sentence in (sentence for job in jobs for sentence in (*job.sentences(), *job.warnings())):
        click.echo(sentence, err=True)
    usable = [job for job in jobs if not job.problems or (how["force"] and job.data)]
    try:
        named = [(job, how["name"] or checked_name(job.path.name)) for job in usable]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    expected = [name for job, given in named for name, _digest in job.jobs(given)]
    follower = Follower.start(config, expected) if how["wait"] else None
    dropped = [one for job, name in named for one in submit_file(config, job, name)]
    refused = WRONG if len(usable) < len(jobs) else 0
    if follower is None:
        _say_dropped(config, dropped, how["as_json"])
        return refused
    from watcher.progress import follow

    follower.follow(dropped)
    return max(refused, follow(follower, as_json=how["as_json"]))


def _say_dropped(config: Config, dropped: list[Dropped], as_json: bool) -> None:
    if as_json:
        click.echo(in_json({"jobs": [{"name": job.name, "file": str(config.inbox / job.source)} for job in dropped]}))
        return
    for source in dict.fromkeys(job.source for job in dropped):
        click.echo(printable(config.inbox / source, 5000))


# --- retry, cancel ---------------------------------------------------------------------------------------------------


@_command
@click.argument("name", callback=_name)
def retry(app: App, name: str) -> int:
    """Run the newest failed or cancelled job of a name again.

    NAME is the job's path in the inbox without extension. The job file is copied from its result, where it may have
    been mended, back into the inbox; the old result stays.

    \b
    Example:  voicespool retry radio/news
    """
    from watcher import submit as clients

    config = app.config()
    result, source = clients.retry(config, name)
    click.echo(f"from {printable(result.folder, 5000)} ({printable(result.status, 20)})", err=True)
    click.echo(printable(config.inbox / source, 5000))
    return 0


@_command
@click.argument("name", callback=_name)
def cancel(app: App, name: str) -> int:
    """Cancel the jobs of a name: those that wait, and the running one.

    NAME is the job's path in the inbox without extension. The daemon does it, and publishes NAME.cancelled.

    \b
    Example:  voicespool cancel radio/news
    """
    from watcher import drop
    from watcher.follow import knows
    from watcher.status import look

    config = app.config()
    snapshot = look(config)
    known = knows(config, snapshot.status, name)
    drop.cancel(config.inbox, name)
    if not known:
        click.echo(f"no job named {printable(name)} is known now; `voicespool status` lists them", err=True)
    if snapshot.daemon is None:
        click.echo("no daemon is running; the next one cancels it", err=True)
    return 0


# --- about the machine -----------------------------------------------------------------------------------------------


@_command
@json_option
def engines(_app: App, as_json: bool) -> int:
    """List the engines: what each can do, whether it can run here, and how to install what is missing.

    \b
    Example:  voicespool engines --json | jq '.engines[].languages'
    """
    from engines import registry

    infos = [engine.info() for engine in registry.engines().values()]
    if as_json:
        click.echo(in_json({"engines": infos, "planned": registry.planned()}))
        return 0
    from watcher import display

    display.show(display.engines(infos, registry.planned()), sys.stdout)
    return 0


@_command
@json_option
def doctor(app: App, as_json: bool) -> int:
    """Check the machine: folders, file events, libraries, engines, GPU. Changes nothing.

    Run it as the user that the daemon runs as. Exits with 3, 4 or 75 when something keeps the spool from working.

    \b
    Example:  sudo -u voicespool voicespool --config /etc/voicespool/config.yaml doctor
    """
    from watcher import doctor as checks

    findings = []
    for finding in checks.examine(app.config()):
        findings.append(finding)
        if not as_json:
            colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.level]
            for number, line in enumerate(finding.message.splitlines()):
                level = click.style(f"{finding.level:<4}", fg=colour) if number == 0 else "    "
                click.echo(f"{level}  {finding.what + ':' if number == 0 else ' ':<16} {printable(line)}")
            if finding.cure:
                click.echo(f"{'':<22} {printable(finding.cure)}")
    if as_json:
        click.echo(in_json(checks.as_json(findings)))
    return checks.exit_code(findings)


@_command
@click.argument("what", type=click.Choice(["job", "manifest", "config", "status"]))
def schema(_app: App, what: str) -> int:
    """Print a JSON Schema: of job files, of manifest.json, of config.yaml, or of status.json.

    \b
    Example:  voicespool schema job > job.schema.json
    """
    from engines import registry
    from jobs import manifest
    from jobs import schema as job
    from watcher import config
    from watcher import status as bulletin

    schemas: dict[str, Callable[[], dict[str, Any]]] = {
        "job": lambda: job.job_schema(registry.engines(), registry.planned()),
        "manifest": manifest.schema,
        "config": config.schema,
        "status": bulletin.schema,
    }
    click.echo(in_json(schemas[what]()))
    return 0


@_command
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path, file_okay=False))
def init(_app: App, folder: Path) -> int:
    """Make a working folder: config.yaml with every key explained, the folders, and an example job.

    What is there already stays as it is. The example lies beside the inbox, not in it.

    \b
    Example:  voicespool init ~/voice
    """
    from watcher import starter

    for path, new in starter.start(folder):
        click.echo(f"{'made' if new else 'kept'}  {printable(path)}", err=True)
    click.echo("Next:")
    if folder != Path():
        click.echo(f"  cd {_quoted(folder)}")
    click.echo(f"  voicespool submit {starter.EXAMPLE_NAME}")
    click.echo("  voicespool run --once")
    return 0


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(printable(path))


def in_json(value: Any, indent: int | None = 2) -> str:
    """JSON with readable text, in which nothing can steer a terminal."""
    return printable_json(json.dumps(value, indent=indent, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, type):
        return value.__name__
    return dict(value) if hasattr(value, "keys") else str(value)
