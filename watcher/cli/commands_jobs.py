"""The commands about jobs: `validate`, `submit`, `retry`, `cancel`.

As in `watcher.cli.commands`, each says here what it takes and prints; what it does is in the module of its name.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from files.printable import printable
from jobs.spool.inbox_names import JOB_SUFFIXES
from watcher.cli.commands import WRONG, App, command_of, complain, in_json, json_option

if TYPE_CHECKING:
    from jobs.spec.rules import Rules
    from watcher.client.submit import Dropped
    from watcher.client.validate import Checked
    from watcher.config.settings import Config

_jobs = click.Group()
_command = command_of(_jobs)


@_command
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@json_option
def validate(app: App, files: tuple[Path, ...], as_json: bool) -> int:
    """Check job files without running them.

    The daemon's own rules apply. Prints every problem as FILE:LINE: KEY: MESSAGE; exits with 1 if there is any.
    Recordings must be next to the file or under voices/.

    \b
    Example:  voicespool validate examples/*.yaml
    """
    from watcher.client.validate import as_json as report
    from watcher.client.validate import check
    from watcher.config.job_rules import job_rules

    config = app.config_in_use()
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
    from watcher.client.drop import checked_name

    try:
        return None if name is None else checked_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _settings(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """`speed=1.2`: values are read as in a job file."""
    from files.yaml12 import plain

    settings = {}
    for setting in given:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{printable(setting, 60)}: give KEY=VALUE, such as speed=1.2")
        settings[key] = plain(value)[0] if value else ""
    return settings


@_command
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option("--text", metavar="T", help="Text to speak, instead of a FILE; - reads stdin.")
@click.option("--language", metavar="L", help="Language tag of the text, such as pt-BR.")
@click.option("--engine", metavar="E", help="Engine; `voicespool engines` lists them.")
@click.option("--checkpoint", metavar="C", help="Fine-tuned model, by its name under models/.")
@click.option("--speaker", metavar="S", help="Built-in voice of the engine.")
@click.option(
    "--speaker-wav", multiple=True, metavar="WAV", help="Reference recording: a file, or a name under voices/."
)
@click.option("--speaker-text", metavar="T", help="Transcript of the first recording.")
@click.option("--setting", "settings", multiple=True, metavar="K=V", callback=_settings, help="Setting of the engine.")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Seed (derived from the content).")
@click.option("--priority", type=click.IntRange(0, 9), metavar="N", help="0 (last) to 9 (first).")
@click.option("--not-before", metavar="TIME", help="Earliest start, such as 2026-12-01T08:00:00-03:00.")
@click.option("--timeout-s", type=float, metavar="SECONDS", help="Longest rendering time of the job.")
@click.option("--name", metavar="NAME", callback=_name, help="Name of the job; FOLDER/NAME for a subfolder.")
@click.option("--wait", is_flag=True, help="Wait for the results and print their folders.")
@click.option(
    "--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Longest --wait; exits with 75 when it is over."
)
@click.option("--force", is_flag=True, help="Drop the file even if it is invalid.")
@json_option
def submit(app: App, files: tuple[Path, ...], **options: Any) -> int:
    """Drop job files, or a text, into the inbox.

    Files are checked first, as by `validate`; an invalid file is not dropped, and the exit code is 1. Recordings next
    to FILE are copied into the inbox and stay there; those of --speaker-wav are removed when the job is claimed. A name
    that is taken gets -2, -3, … Prints the path of each dropped file. With --wait it prints the folder of each result,
    and exits with 1 if a job failed.

    \b
    Examples:  voicespool submit hello.yaml
               voicespool submit --text "Bom dia" --language pt-BR --wait
               voicespool submit --name radio/news news.yaml
    """
    from watcher.client.validate import check
    from watcher.config.job_rules import job_rules

    how = {key: options.pop(key) for key in ("name", "wait", "timeout", "force", "as_json")}
    given = [key for key, value in options.items() if value not in (None, (), {})]
    if bool(files) == ("text" in given):
        raise click.UsageError("give job files, or --text (and not both)")
    if files and given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} needs --text; in a FILE it is a key")
    if how["name"] is not None and len(files) > 1:
        raise click.UsageError("--name takes one FILE")
    if how["timeout"] is not None and not how["wait"]:
        raise click.UsageError("--timeout needs --wait; the longest rendering time of a job is --timeout-s")
    for path in files:
        _refuse_text(path)
    config = app.config_in_use()
    rules = job_rules(config)
    jobs = [check(path, config, rules) for path in files] or [_text_job(config, rules, options, how["name"])]
    return _submitted(config, jobs, how)


def _refuse_text(path: Path) -> None:
    """`submit 'Hello'` means a text: there is no file of that name."""
    if path.suffix.lower() not in JOB_SUFFIXES and not os.path.lexists(path):
        words = shlex.quote(printable(path, 60))
        raise click.UsageError(f"no such file: {words}. To speak a text: voicespool submit --text {words}")


def _text_job(config: Config, rules: Rules, keys: dict[str, Any], name: str | None) -> Checked:
    """The job that the options describe, checked as if it were a file here."""
    from jobs.spool.uploads import new_folder
    from watcher.client.submit import name_from, text_job
    from watcher.client.validate import check_data

    if keys["text"] == "-":
        keys = {**keys, "text": sys.stdin.read()}
    folder = new_folder()
    names = [f"{folder}/{Path(given).name}" if Path(given).is_file() else given for given in keys["speaker_wav"]]
    here = {name: Path(given) for name, given in zip(names, keys["speaker_wav"], strict=True) if name != given}
    if len(set(names)) < len(names):
        raise click.UsageError("two recordings have the same name")
    path = Path(f"{(name or name_from(keys['text'])).rpartition('/')[2]}.yaml")
    return replace(check_data(path, text_job({**keys, "speaker_wav": names}), config, rules, here), by_options=True)


def _submitted(config: Config, jobs: list[Checked], how: dict[str, Any]) -> int:
    """Drop the valid jobs (with `force` all), under `name`; with `wait` follow them."""
    from watcher.client.drop import checked_name
    from watcher.client.submit import submit_file

    for sentence in (sentence for job in jobs for sentence in (*job.sentences(), *job.warnings())):
        click.echo(sentence, err=True)
    usable = [job for job in jobs if not job.problems or (how["force"] and job.data)]
    try:
        named = [(job, how["name"] or checked_name(job.path.name)) for job in usable]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    expected = [name for job, given in named for name, _digest in job.jobs(given)]

    def drop() -> list[Dropped]:
        return [one for job, name in named for one in submit_file(config, job, name)]

    refused = WRONG if len(usable) < len(jobs) else 0
    return max(refused, _dropped(config, expected, drop, how))


def _dropped(config: Config, expected: Sequence[str], drop: Callable[[], list[Dropped]], how: Mapping[str, Any]) -> int:
    """Drop jobs under the expected names; with `wait` follow them to their results, else say where they are."""
    from watcher.cli.progress import follow
    from watcher.client.follow import Follower

    follower = Follower.start(config, expected) if how["wait"] else None
    dropped = drop()
    if follower is None:
        _say_dropped(config, dropped, how["as_json"])
        return 0
    follower.follow(dropped)
    return follow(follower, as_json=how["as_json"], timeout_s=how.get("timeout"))


def _say_dropped(config: Config, dropped: list[Dropped], as_json: bool) -> None:
    if as_json:
        click.echo(in_json({"jobs": [{"name": job.name, "file": str(config.inbox / job.source)} for job in dropped]}))
        return
    for source in dict.fromkeys(job.source for job in dropped):
        click.echo(printable(config.inbox / source, 5000))


# --- retry, cancel ---------------------------------------------------------------------------------------------------


@_command
@click.argument("name", callback=_name)
@click.option("--wait", is_flag=True, help="Wait for the result and print its folder.")
@json_option
def retry(app: App, name: str, wait: bool, as_json: bool) -> int:
    """Run a failed or cancelled job again.

    NAME is the job's path in the inbox without extension; the newest failed or cancelled job of that name is used. The
    job file is copied from its result, where you can correct it, into the inbox; the old result stays. With --wait the
    exit code is 1 if the job fails.

    \b
    Examples:  voicespool retry radio/news
               voicespool retry radio/news --wait
    """
    from watcher.client import submit as clients

    config, error = app.in_use()
    if error is not None:
        complain(error.message, error.hint)
    failed = clients.failed(config, name)
    click.echo(f"from {printable(failed.result.folder, 5000)} ({printable(failed.result.status, 20)})", err=True)
    return _dropped(config, failed.names, lambda: failed.drop(config), {"wait": wait, "as_json": as_json})


@_command
@click.argument("name", callback=_name)
def cancel(app: App, name: str) -> int:
    """Cancel waiting and running jobs of a name.

    NAME is the job's path in the inbox without extension. The daemon cancels the jobs and publishes NAME.cancelled.
    Prints what was found. Exits with 1 when there is no such job, it has ended, or the daemon can't take its file.

    \b
    Example:  voicespool cancel radio/news
    """
    from watcher.client.cancel import cancel as ask

    config, error = app.in_use()
    if error is not None:
        complain(error.message, error.hint)
    for sentence in ask(config, name):
        click.echo(sentence)
    return 0


def join(commands: click.Group) -> None:
    """Add these to the commands of `voicespool`."""
    for command in _jobs.commands.values():
        commands.add_command(command)
