"""config.yaml: defaults, paths, and every mistake named with its line, its key and the cure."""

from __future__ import annotations

import os
import re
from pathlib import Path

import jsonschema
import pytest

from files import yaml12
from files.tree import Bounds
from jobs.errors import ConfigError
from watcher.cli.init import EXAMPLE_NAME, start, template
from watcher.config.folders import exposed, prepare
from watcher.config.settings import Config, load, schema


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def message(folder: Path, text: str) -> str:
    """The complaint about a configuration, without the file's own path."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value.message.replace(f"{path}:", "")


def test_without_a_file_everything_has_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of the box: espeak, English, folders in the current folder, state inside the inbox."""
    monkeypatch.chdir(tmp_path)
    config = load()
    assert config.inbox == tmp_path / "inbox"
    assert config.state_dir == tmp_path / "inbox" / ".voicespool"
    assert (config.defaults.engine, config.defaults.language) == ("espeak", "en")
    assert config.limits.attempts == 3


def test_config_yaml_of_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --config, ./config.yaml counts."""
    write(tmp_path, "inbox: mine")
    monkeypatch.chdir(tmp_path)
    assert load().inbox == tmp_path / "mine"


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the current folder; `..` is followed, and the state goes where the inbox goes."""
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir("/")
    config = load(write(tmp_path / "etc", "inbox: ../in\noutbox: /srv/out\nallowed_roots: [shared]"))
    assert config.inbox == tmp_path / "in"
    assert config.outbox == Path("/srv/out")
    assert config.state_dir == tmp_path / "in" / ".voicespool"
    assert config.allowed_roots == (tmp_path / "etc" / "shared",)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "limits:\ndefaults:\n", "\ufeffinbox: inbox\n"])
def test_what_is_left_out_has_its_default(tmp_path: Path, text: str) -> None:
    """An empty file, a section whose keys are all commented out, a byte order mark."""
    assert load(write(tmp_path, text)).limits == Config().limits


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("outbux: x", "1: outbux: unknown key; did you mean `outbox`?"),
        ("\nready:\n  quiet: 2", "3: ready.quiet: unknown key; did you mean `quiet_s`?"),
        ("language: pt", "1: language: unknown key; it belongs under `defaults`"),
        ("idle: 3", "1: idle: unknown key; did you mean `device.idle_s`?"),
        ("limits: {inbox: x}", "1: limits.inbox: unknown key; it belongs at the top level"),
        (
            "limits: {fallback_cpu: true}",
            "1: limits.fallback_cpu: unknown key; it belongs under `device`",
        ),
        ("hooks: {xyzzy: 1}", "1: hooks.xyzzy: unknown key; available here: on_result"),
        (
            "ready: {quiet_s: soon}",
            '1: ready.quiet_s: found "soon"; expected a number of seconds above 0, at most a year',
        ),
        ("ready: {quiet_s: true}", "1: ready.quiet_s: found true; expected a number of seconds"),
        ("ready: {quiet_s: 0}", "1: ready.quiet_s: found the number 0; expected a number of seconds above 0"),
        ("ready: {quiet_s: .inf}", "1: ready.quiet_s: found the number inf; expected a number of seconds"),
        (
            "ready: {quiet_s: 1e9}",
            "1: ready.quiet_s: found the number 1000000000.0; expected a number of seconds above 0, at most a year",
        ),
        ("ready: {quiet_s: .nan}", "1: ready.quiet_s: found the number nan; expected a number of seconds"),
        (
            "limits: {attempts: 2.5}",
            "1: limits.attempts: found the number 2.5; expected a whole number from 1 to 10**12",
        ),
        ("limits: 3", "1: limits: found the number 3; expected keys with values"),
        ("inbox: [a]", "1: inbox: found a list of 1; expected the path of a folder"),
        ("device: {name: gpu}", '1: device.name: found "gpu"; expected auto, cpu, mps, cuda or cuda:N'),
        ("device: {fallback_cpu: yes}", '1: device.fallback_cpu: found "yes"; expected true or false'),
        (
            "defaults: {priority: 10}",
            "1: defaults.priority: found the number 10; expected a whole number from 0 (last) to 9 (first)",
        ),
        (
            "results: {on_existing: ask}",
            '1: results.on_existing: found "ask"; expected number or replace',
        ),
        (
            "results: {mode: 0640}",
            "1: results.mode: found the number 640; allowed are three or four octal digits in quotes",
        ),
        ("results: {mode: '0088'}", '1: results.mode: found "0088"; allowed are three or four octal digits in quotes'),
        ("results: {mode: '0060'}", '1: results.mode: found "0060"; the owner must be allowed to read and write'),
        ("results: {group: no-such-group}", '1: results.group: found "no-such-group"; this machine has no such group'),
        (
            "results: {group: []}",
            "1: results.group: found an empty list; expected the name of a group, or its number",
        ),
        ("device: {profile: fast}", '1: device.profile: found "fast"; expected auto or low_vram'),
        ("retention: {days: 30}", "1: retention.days: not available in this version"),
        ("hooks: {on_result: [mail, me]}", "1: hooks.on_result: not available in this version"),
        ("defaults: {checkpoint: ''}", "1: defaults.checkpoint: found an empty text; expected a name"),
        ("limits: {}\nlimits: {}", "2: limits: `limits` is given twice, in lines 1 and 2"),
        ("- a\n- b", "1: must be keys with values, such as `inbox: inbox`"),
        ("inbox: [\n", "2: this is not YAML"),
        ("inbox: a\n---\ninbox: b", "2: a configuration is one YAML document; a second one starts here"),
        ("inbox: !!python/object:os.system a", "1: inbox: the tag"),
        ("inbox: a\noutbox: a/b", "2: outbox: is inside inbox"),
        ("inbox: b/a\noutbox: b", "1: inbox: is inside outbox"),
        ("inbox: a\noutbox: ./a/", "2: outbox: is the same folder as inbox"),
        ("models: inbox/models", "1: models: is inside inbox"),
        ("voices: .", "1: inbox: is inside voices"),
        (
            "state_dir: inbox/state",
            "1: state_dir: is visible in the inbox; choose a folder whose name starts",
        ),
        ("state_dir: inbox", "1: inbox: is the same folder as state_dir"),
        ("state_dir: outbox/.state", "1: state_dir: is inside outbox"),
        ("inbox: ~nobody-of-that-name/in", '1: inbox: found "~nobody-of-that-name/in"; this machine has no such user'),
        ('allowed_roots: ["a\\0b"]', '1: allowed_roots[0]: found "a\\x00b"; expected a path without zero bytes'),
        (
            "results: {group: 4294967296}",
            "1: results.group: found the number 4294967296; expected the name of a group",
        ),
    ],
)
def test_a_mistake_is_named_with_line_key_and_cure(tmp_path: Path, text: str, complaint: str) -> None:
    """One mistake, one sentence."""
    assert message(tmp_path, text).startswith(complaint)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """In the order of the file."""
    lines = message(tmp_path, "outbux: x\nready:\n  quiet_s: -1\n  scan_s: no\nlimits: {attempt: 1}").splitlines()
    assert [line.split(":")[0] for line in lines] == ["1", "3", "4", "5"]


def test_a_stranger_s_text_in_a_configuration_can_not_steer_the_terminal(tmp_path: Path) -> None:
    """Keys and values are escaped in complaints."""
    said = message(tmp_path, '"\\e[2Jx": 1\nready: {quiet_s: "\\e]0;hi\\a\\u202e"}')
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_a_symlink_does_not_hide_that_folders_overlap(tmp_path: Path) -> None:
    """Links are resolved before folders are compared."""
    (tmp_path / "inbox" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "inbox" / "sub")
    assert "outbox: is inside inbox" in message(tmp_path, "outbox: link")


@pytest.mark.parametrize("name", ["missing.yaml", ""])
def test_a_file_that_can_not_be_read_is_a_configuration_error(tmp_path: Path, name: str) -> None:
    """A file that was named must be there, and be a file."""
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path / name)


@pytest.mark.parametrize(("mode", "folder"), [("0640", 0o750), ("2775", 0o2775), ("700", 0o700)])
def test_one_mode_serves_folders_and_files(tmp_path: Path, mode: str, folder: int) -> None:
    """Folders get x wherever there is r."""
    results = load(write(tmp_path, f'results: {{mode: "{mode}", group: {os.getgid()}}}')).results
    assert (results.folder_mode, results.gid) == (folder, os.getgid())


def test_the_configuration_is_frozen(tmp_path: Path) -> None:
    """Nobody changes it behind another's back."""
    with pytest.raises(ValueError, match="frozen"):
        load(write(tmp_path, "")).limits.attempts = 4


def test_every_key_is_documented_and_the_schema_knows_it() -> None:
    """The schema is valid, closed, and has a description for every key."""
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    for part in [found, *found["$defs"].values()]:
        assert part["additionalProperties"] is False
        for name, key in part["properties"].items():
            section = found["$defs"].get(key.get("$ref", "").rpartition("/")[2], {})
            assert key.get("description") or section.get("description"), name


def test_the_documented_config_yaml_says_the_defaults(tmp_path: Path) -> None:
    """What `init` writes and what lies in the repository are the models' own words, and mean the defaults; only the
    state folder, which has to be out of strangers' reach, is next to the inbox, and not in it.
    """
    assert Path("config.yaml").read_text() == template()
    config = load(write(tmp_path, template()))
    (tmp_path / "config.yaml").write_text("")
    assert config.state_dir == tmp_path / ".voicespool-state"
    assert config.model_copy(update={"state_dir": config.inbox / ".voicespool"}) == load(tmp_path / "config.yaml")
    (piece,) = yaml12.split(template())
    tree = yaml12.read(piece, Bounds())
    assert tree is not None
    value = {key: part for key, part in tree.value.items() if part is not None}
    jsonschema.validate(value, schema())


def test_every_key_can_be_switched_on(tmp_path: Path) -> None:
    """Each line that is commented out in config.yaml names a known key."""
    uncommented = "\n".join(
        line.replace("# ", "", 1) if re.fullmatch(r" *# \w+:", line) else line for line in template().splitlines()
    )
    load(write(tmp_path, uncommented))


def test_init_makes_a_folder_to_start_from_and_overwrites_nothing(tmp_path: Path) -> None:
    """A second run keeps what is there."""
    made = dict(start(tmp_path / "new"))
    assert all(made.values())
    (tmp_path / "new" / "config.yaml").write_text("# mine\n")
    (tmp_path / "new" / "voices").rmdir()
    again = dict(start(tmp_path / "new"))
    assert [path.name for path, new in again.items() if new] == ["voices"]
    assert (tmp_path / "new" / "config.yaml").read_text() == "# mine\n"
    assert not (tmp_path / "new" / "inbox" / EXAMPLE_NAME).exists()


def test_prepare_makes_the_folders(tmp_path: Path) -> None:
    """At the first start."""
    config = load(write(tmp_path, ""))
    prepare(config)
    assert config.state_dir.is_dir()
    assert config.outbox.is_dir()


def test_an_outbox_that_is_remembered_is_not_made_again(tmp_path: Path) -> None:
    """It is away (an unmounted share), which is a hold for the daemon, not a fresh start."""
    config = load(write(tmp_path, ""))
    prepare(config)
    (config.state_dir / "outbox.json").write_text("{}")
    config.outbox.rmdir()
    prepare(config)
    assert not config.outbox.exists()


@pytest.mark.parametrize("inbox", ["file/inbox", "file", "/proc/nowhere/inbox"])
def test_a_folder_that_can_not_be_made_is_a_configuration_error(tmp_path: Path, inbox: str) -> None:
    """It was never there, so nobody will bring it back."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^inbox: .*(can't be created|is a file)"):
        prepare(load(write(tmp_path, f"inbox: {inbox}")))


def test_the_state_must_be_on_the_inbox_s_file_system(tmp_path: Path) -> None:
    """Else a claim would not be one rename."""
    elsewhere = Path("/dev/shm")
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems: /dev/shm is not there or not another one")
    state = elsewhere / f"voicespool-test-{os.getpid()}-{tmp_path.name}"
    try:
        with pytest.raises(ConfigError, match=r"state_dir: .*not on the file system of the inbox"):
            prepare(load(write(tmp_path, f"state_dir: {state}")))
    finally:
        state.rmdir()


@pytest.mark.parametrize(
    ("mode", "state_dir", "danger"),
    [
        (0o2777, None, "which is not sticky"),
        (0o3777, None, ""),
        (0o755, None, ""),
        (0o2777, ".voicespool-state", ""),
    ],
)
def test_an_inbox_in_which_others_could_rename_the_state_is_known(
    tmp_path: Path, mode: int, state_dir: str | None, danger: str
) -> None:
    config = load(write(tmp_path, f"state_dir: {state_dir}" if state_dir else ""))
    prepare(config).close()
    tmp_path.chmod(0o755)
    config.inbox.chmod(mode)
    assert danger in exposed(config)
    assert bool(exposed(config)) == bool(danger)
