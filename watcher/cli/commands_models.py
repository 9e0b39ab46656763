"""The commands about models and voices: `checkpoints`, `models`, `voices`.

As in `watcher.cli.commands`, each says here what it takes and prints; what it does is in the module of its name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engines.errors import EngineMissing
from files.printable import printable, short_path
from watcher.cli.commands import WRONG, App, command_of, in_json, json_option
from watcher.cli.help import Group

if TYPE_CHECKING:
    from engines.checkpoints.base_models import BaseModel
    from engines.checkpoints.inspection import Checkpoint
    from watcher.config.settings import Config


@click.group(cls=Group)
def checkpoints() -> None:
    """List, check and delete fine-tuned models."""


@click.group(cls=Group)
def models() -> None:
    """List and download base models and vocoders."""


@click.group(cls=Group)
def voices() -> None:
    """List recordings and built-in voices."""


# --- checkpoints -----------------------------------------------------------------------------------------------------


@command_of(checkpoints, "list")
@json_option
def list_checkpoints(app: App, as_json: bool) -> int:
    """List the models under models/.

    Shows what each model is, its training, and whether it loads. Reads only the headers of the files, and runs nothing
    in them.

    \b
    Examples:  voicespool checkpoints list
               voicespool checkpoints list --json | jq '.checkpoints[].name'
    """
    from engines.checkpoints.inspection import survey
    from watcher.models import checkpoints as models

    config = app.config_in_use()
    found = [models.as_here(one, config) for one in survey(config.models)]
    if as_json:
        click.echo(in_json({"checkpoints": [models.as_json(one, config) for one in found]}))
    elif not found:
        click.echo(f"no model file in {short_path(config.models)}", err=True)
    else:
        from watcher.cli.display import checkpoints as display
        from watcher.cli.display import layout

        layout.show(display.table([(models.name_of(one, config), one) for one in found]), sys.stdout)
    return 0


@command_of(checkpoints)
@click.argument("name")
@json_option
def show(app: App, name: str, as_json: bool) -> int:
    """Show one model of models/.

    NAME is what a job file names: a path in models/, with or without its ending, a folder, or FOLDER/best. Exits with 1
    when the model does not load, with 4 when there is none.

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
        raise click.BadParameter(f"unknown model {printable(name, 60)!r}; {known}")
    return PUBLISHED[name.lower()]


@command_of(checkpoints)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--as", "published", metavar="MODEL", callback=_published, help="Compare it with MODEL, such as f5-base.")
@json_option
def inspect(app: App, path: Path, published: str | None, as_json: bool) -> int:
    """Check any file: which model it is, if it loads.

    Runs nothing in the file. Exits with 1 when it does not load. With --as, MODEL is f5-base, f5-small, e2-base or
    e2-small; the sizes of the file are shown next to those that MODEL needs.

    \b
    Examples:  voicespool checkpoints inspect model_last.safetensors
               voicespool checkpoints inspect model_last.safetensors --as e2-base
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
        from watcher.cli.display import checkpoints as display
        from watcher.cli.display import layout

        layout.show(display.one_model(models.name_of(one, config), one), sys.stdout)
    return 0 if one.loads else WRONG


def _compare(one: Checkpoint, published: str, config: Config, as_json: bool) -> int:
    from watcher.models import checkpoints as models

    found = models.differences(one, published)
    if as_json:
        click.echo(in_json({**models.as_json(one, config), "as": models.compared_as_json(one, published)}))
    else:
        from watcher.cli.display import checkpoints as display
        from watcher.cli.display import layout

        name = models.name_of(one, config)
        layout.show(display.comparison(name, one, published, found), sys.stdout)
    return WRONG if found or not one.loads else 0


@command_of(checkpoints)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@json_option
def delete(app: App, name: str, yes: bool, as_json: bool) -> int:
    """Delete a model of models/, after asking.

    Refuses to delete the best model of its folder, and a model in use: loaded, named by a running or waiting job, or by
    `defaults` in config.yaml. Files next to the model stay.

    \b
    Example:  voicespool checkpoints delete ana/checkpoint_10000
    """
    from watcher.cli.display.checkpoints import size
    from watcher.config.job_rules import job_rules
    from watcher.models import checkpoints as models

    config = app.config_in_use()
    one = models.find(config, name)
    models.refuse_needed(one, config, job_rules(config))
    shown = f"{models.name_of(one, config)} ({one.architecture}, {size(one.size_bytes)})"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"give --yes to delete {shown} without a question")
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
        raise click.BadParameter(f"unknown base model {printable(name, 60)!r}; {known}")
    return BASE_MODELS[name]


@command_of(models)
@click.argument("model", metavar="NAME", callback=_base_model)
@click.option(
    "--accept-licence", "--accept-license", "accepted", is_flag=True, help="Accept the licence without a question."
)
@click.option("--into-models", is_flag=True, help="Download into models/ even if a cache has it.")
@click.option("--verify", is_flag=True, help="If it is there, compare its files with the published ones.")
def pull(app: App, model: BaseModel, accepted: bool, into_models: bool, verify: bool) -> int:
    """Download a base model and its dependencies.

    Asks you to accept the licence, then prints the folder. An interrupted download resumes. Every file is checked
    against the SHA-256 of the published one. A model that is there already is not downloaded again.

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
        click.echo("interrupted; the same command resumes the download", err=True)
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
        terms = "; ".join(f"the licence of {one.title} is {one.licence.title} ({one.licence.url})" for one in models)
        raise click.UsageError(f"{terms}; give --accept-licence to accept {_it(models)}")
    for one in models:
        lines = (f"The licence of {one.title} is {one.licence.title}:", *one.licence.summary, one.licence.url)
        click.echo("\n  ".join(lines), err=True)
    if not click.confirm(f"Do you accept {_it(models)}?", err=True):
        raise EngineMissing("the licence was not accepted; nothing was downloaded", "")
    return "question"


def _it(models: list[BaseModel]) -> str:
    return "it" if len(models) == 1 else "them"


@command_of(models, "list")
@json_option
def list_models(app: App, as_json: bool) -> int:
    """List base models and vocoders.

    Shows the folder and the licence of each, and the command that downloads it. BigVGAN and Whisper are listed if they
    are there; voicespool does not download them.

    \b
    Example:  voicespool models list --json | jq '.models[].folder'
    """
    from engines.checkpoints.base_models import BASE_MODELS, BIGVGAN
    from engines.whisper.transcripts import WHISPER
    from watcher.models.pull import state

    states = [state(model, app.config_in_use().models) for model in (*BASE_MODELS.values(), BIGVGAN, WHISPER)]
    states = [one for one in states if one["command"] or one["folder"] or one["not_usable"]]
    if as_json:
        click.echo(in_json({"models": states}))
        return 0
    from watcher.cli.display import layout
    from watcher.cli.display import models as display

    layout.show(display.models(states), sys.stdout)
    return 0


# --- voices ----------------------------------------------------------------------------------------------------------


@command_of(voices, "list")
@json_option
def list_voices(app: App, as_json: bool) -> int:
    """List recordings and built-in voices.

    A recording with an error can't be used; a warning names a fault that the cloned voice will have too. docs/VOICES.md
    explains how to record a good one.

    \b
    Example:  voicespool voices list
    """
    from watcher.models import voices as room

    config = app.config_in_use()
    found = list(room.recordings(config))
    if as_json:
        recordings, built_in = [one.as_json() for one in found], list(room.built_in(config.models))
        click.echo(in_json({"folder": str(config.voices), "recordings": recordings, "built_in": built_in}))
        return 0
    from watcher.cli.display import layout
    from watcher.cli.display import voices as display

    layout.show(display.voices(config.voices, found, list(room.built_in(config.models))), sys.stdout)
    return 0


def join(commands: click.Group) -> None:
    """Add these groups to the commands of `voicespool`."""
    for group in (checkpoints, models, voices):
        commands.add_command(group)
