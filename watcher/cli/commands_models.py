"""The commands about what engines speak with: `checkpoints`, `models`, `voices`.

As in `watcher.cli.commands`, each says here what it takes and prints; what it does is in the module of its name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engines.errors import EngineMissing
from files.printable import printable
from watcher.cli.commands import WRONG, App, command_of, in_json, json_option

if TYPE_CHECKING:
    from engines.checkpoints.base_models import BaseModel
    from engines.checkpoints.inspection import Checkpoint
    from watcher.config.settings import Config


@click.group()
def checkpoints() -> None:
    """The fine-tuned models under models/: what each file is, and whether it will load."""


@click.group()
def models() -> None:
    """The base models that engines speak with, and the vocoder that f5 needs."""


@click.group()
def voices() -> None:
    """The voices that jobs can name."""


# --- checkpoints -----------------------------------------------------------------------------------------------------


@command_of(checkpoints, "list")
@json_option
def list_checkpoints(app: App, as_json: bool) -> int:
    """List the models under models/: what each is, how its training went, and whether it will load.

    Only the headers of the files are read, and nothing in them is run.

    \b
    Examples:  voicespool checkpoints list
               voicespool checkpoints list --json | jq '.checkpoints[] | select(.best).name'
    """
    from engines.checkpoints.inspection import survey
    from watcher.models import checkpoints as models

    config = app.config_in_use()
    found = [models.as_here(one, config) for one in survey(config.models)]
    if as_json:
        click.echo(in_json({"checkpoints": [models.as_json(one, config) for one in found]}))
    elif not found:
        click.echo(f"no model file lies in {printable(config.models)}", err=True)
    else:
        from watcher.cli import display, display_checkpoints

        display.show(display_checkpoints.table([(models.name_of(one, config), one) for one in found]), sys.stdout)
    return 0


@command_of(checkpoints)
@click.argument("name")
@json_option
def show(app: App, name: str, as_json: bool) -> int:
    """Show all about one model of models/. Exits with 1 when it will not load, with 4 when there is none.

    NAME is what a job file would say: a path in models/, with or without its ending, a folder, or FOLDER/best.

    \b
    Example:  voicespool checkpoints show ana/best
    """
    from watcher.models.checkpoints import find

    config = app.config_in_use()
    return _tell(find(config, name), config, as_json)


def _published(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    from jobs.spec.problems import listed, nearest
    from watcher.models.checkpoints import PUBLISHED

    if name is None:
        return None
    if name.lower() not in PUBLISHED:
        known = f"known: {listed(PUBLISHED)}{nearest(name, PUBLISHED)}"
        raise click.BadParameter(f"there is no model {printable(name, 60)!r}; {known}")
    return PUBLISHED[name.lower()]


@command_of(checkpoints)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--as", "published", metavar="MODEL", callback=_published, help="Say why it would not load as MODEL.")
@json_option
def inspect(app: App, path: Path, published: str | None, as_json: bool) -> int:
    """Show all about any file: whether it is a model, of which kind, and whether it will load.

    Nothing in the file is run. Exits with 1 when it will not load. With --as, MODEL is f5-base, f5-small, e2-base or
    e2-small, and what the file has is shown beside what that model needs.

    \b
    Examples:  voicespool checkpoints inspect ~/Downloads/model_last.safetensors
               voicespool checkpoints inspect ~/Downloads/model_last.safetensors --as e2-base
    """
    from engines.checkpoints import inspection as models
    from watcher.models.checkpoints import as_here

    config = app.config_in_use()
    one = as_here(models.inspect(path, config.models), config)
    return _tell(one, config, as_json) if published is None else _compare(one, published, config, as_json)


def _tell(one: Checkpoint, config: Config, as_json: bool) -> int:
    from watcher.models import checkpoints as models

    if as_json:
        click.echo(in_json(models.as_json(one, config)))
    else:
        from watcher.cli import display, display_checkpoints

        display.show(display_checkpoints.one_model(models.name_of(one, config), one), sys.stdout)
    return 0 if one.loads else WRONG


def _compare(one: Checkpoint, published: str, config: Config, as_json: bool) -> int:
    from watcher.models import checkpoints as models

    found = models.differences(one, published)
    if as_json:
        click.echo(in_json({**models.as_json(one, config), "as": models.compared_as_json(one, published)}))
    else:
        from watcher.cli import display, display_checkpoints

        name = models.name_of(one, config)
        display.show(display_checkpoints.comparison(name, one, published, found), sys.stdout)
    return WRONG if found or not one.loads else 0


@command_of(checkpoints)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def delete(app: App, name: str, yes: bool, as_json: bool) -> int:
    """Delete a model of models/, after a question.

    The best of its folder stays, and so does one that is in use: loaded, named by a job that runs or waits, or by
    `defaults` in config.yaml. What lies beside the file stays too.

    \b
    Example:  voicespool checkpoints delete ana/checkpoint_10000
    """
    from watcher.cli.display_checkpoints import size
    from watcher.config.job_rules import job_rules
    from watcher.models import checkpoints as models

    config = app.config_in_use()
    one = models.find(config, name)
    models.refuse_needed(one, config, job_rules(config))
    shown = f"{models.name_of(one, config)} ({one.architecture}, {size(one.size_bytes)})"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"--yes says that {shown} is to be deleted")
        click.confirm(f"Delete {shown}?", abort=True, err=True)
    models.delete(one)
    if as_json:
        click.echo(in_json({"deleted": models.as_json(one, config)}))
    else:
        click.echo(printable(one.path, 5000))
    return 0


# --- models ----------------------------------------------------------------------------------------------------------


def _base_model(_context: click.Context, _parameter: click.Parameter, name: str) -> BaseModel:
    from engines.checkpoints.base_models import BASE_MODELS
    from jobs.spec.problems import listed, nearest

    if name not in BASE_MODELS:
        known = f"known: {listed(BASE_MODELS)}{nearest(name, BASE_MODELS)}"
        raise click.BadParameter(f"there is no base model {printable(name, 60)!r}; {known}")
    return BASE_MODELS[name]


@command_of(models)
@click.argument("model", metavar="NAME", callback=_base_model)
@click.option("--accept-licence", "--accept-license", "accepted", is_flag=True, help="Accept its licence unasked.")
@click.option("--into-models", is_flag=True, help="Download it into models/ even when a cache of yours has it.")
@click.option("--verify", is_flag=True, help="When it is there, compare every file with what was published.")
def pull(app: App, model: BaseModel, accepted: bool, into_models: bool, verify: bool) -> int:
    """Download a base model into models/, once you accept its licence, and with it what it can't speak without.

    Prints the folder. A download that was interrupted goes on where it was. Whatever comes is checked against the
    SHA-256 of the published files. A model that is there already is not downloaded again.

    \b
    Examples:  voicespool models pull xtts
               voicespool models pull f5 --accept-licence
    """
    from watcher.models import pull as download

    folder = app.config_in_use().models
    wanted = download.wanted(model)
    found = {one.name: download.present(one, folder, anywhere=not into_models) for one in wanted}
    missing = [one for one in wanted if found[one.name] is None]
    how = "" if not missing else "flag" if accepted else _ask(missing)
    for one in wanted:
        there = found[one.name]
        if there is None:
            found[one.name] = _pull(one, folder, how)
        else:
            _tell_of(one, there, verify)
    click.echo(printable(found[model.name], 5000))
    return 0


def _pull(model: BaseModel, folder: Path, how: str) -> Path:
    from watcher.cli.progress import transfer
    from watcher.models import pull as download

    try:
        with transfer() as tell:
            return download.pull(model, folder, how, tell)
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on where it was", err=True)
        raise


def _tell_of(model: BaseModel, there: Path, verify: bool) -> None:
    """Of a model that is not downloaded again."""
    from watcher.cli.progress import transfer
    from watcher.models import pull as download

    click.echo(f"{model.title} is there already", err=True)
    if verify:
        with transfer() as tell:
            download.verify(model, there, tell)


def _ask(models: list[BaseModel]) -> str:
    """Have the licences accepted at the terminal."""
    if not sys.stdin.isatty():
        terms = "; ".join(f"{one.title} comes under the {one.licence.title} ({one.licence.url})" for one in models)
        raise click.UsageError(f"{terms}; --accept-licence says that you accept {_it(models)}")
    for one in models:
        lines = (f"{one.title} comes under the {one.licence.title}:", *one.licence.summary, one.licence.url)
        click.echo("\n  ".join(lines), err=True)
    if not click.confirm(f"Do you accept {_it(models)}?", err=True):
        raise EngineMissing("the licence was not accepted; nothing was downloaded", "")
    return "question"


def _it(models: list[BaseModel]) -> str:
    return "it" if len(models) == 1 else "them"


@command_of(models, "list")
@json_option
def list_models(app: App, as_json: bool) -> int:
    """List the base models and vocoders: where each is, under which licence, and what brings it here.

    BigVGAN and Whisper, which nothing here downloads, are listed where they are.

    \b
    Example:  voicespool models list --json | jq '.models[].folder'
    """
    from engines.checkpoints.base_models import BASE_MODELS, BIGVGAN
    from engines.whisper.transcripts import WHISPER
    from watcher.models.pull import in_mb, state

    states = [state(model, app.config_in_use().models) for model in (*BASE_MODELS.values(), BIGVGAN, WHISPER)]
    states = [one for one in states if one["command"] or one["folder"] or one["not_usable"]]
    if as_json:
        click.echo(in_json({"models": states}))
        return 0
    for one in states:
        click.echo(f"{one['name']}  {one['title']}  ({one['licence']})")
        if one["folder"] is not None:
            click.echo(f"  {printable(one['folder'], 5000)}")
        elif one["command"]:
            begun = f", {in_mb(one['downloaded_bytes'])} of it downloaded" if one["downloaded_bytes"] else ""
            click.echo(f"  missing; `{one['command']}` downloads it ({in_mb(one['size_bytes'])}{begun})")
        for folder, fault in one["not_usable"].items():
            click.echo(f"  not usable: {printable(folder, 5000)}: {printable(fault)}")
    return 0


# --- voices ----------------------------------------------------------------------------------------------------------


@command_of(voices, "list")
@json_option
def list_voices(app: App, as_json: bool) -> int:
    """List the recordings under voices/ with their length and faults, and the voices that engines have built in.

    A recording with an error can't be used; a warning says what will make its voice worse. docs/VOICES.md says how to
    record a good one.

    \b
    Example:  voicespool voices list
    """
    from watcher.models import voices as room

    config = app.config_in_use()
    found = room.recordings(config)
    if as_json:
        recordings, built_in = [one.as_json() for one in found], list(room.built_in(config.models))
        click.echo(in_json({"folder": str(config.voices), "recordings": recordings, "built_in": built_in}))
        return 0
    click.echo(f"recordings in {printable(config.voices, 5000)}\n{room.HEADING}")
    for one in found:
        for line in one.lines():
            click.echo(line)
    click.echo("\nbuilt in (speaker)")
    for engine in room.built_in(config.models):
        click.echo(f"  {engine.engine}: {printable(engine.note or ', '.join(engine.speakers), 10_000)}")
    return 0


def join(commands: click.Group) -> None:
    """Put these groups among the commands of `voicespool`."""
    for group in (checkpoints, models, voices):
        commands.add_command(group)
