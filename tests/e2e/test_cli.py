"""The command itself, as a process: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.depriving import as_an_ordinary_user
from tests.spooling import PATIENCE_S, Spool, command, environment, until

NASTY = "\x1b[2Jowned\x1b]0;title\x07\nfake line\u202e"
COMMANDS = (
    "run", "submit", "status", "reload", "validate", "retry", "cancel", "engines", "doctor", "schema", "init",
)  # fmt: skip


def voicespool(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without anything else around it."""
    return command(*arguments, cwd=folder, env=environment(**extra))


def harmless(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.fixture
def speaking(spool: Spool) -> Spool:
    """A spool with the embedded engine."""
    spool.config["defaults"] = {"engine": "espeak"}
    return spool


# --- finding one's way ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(tmp_path: Path, name: str) -> None:
    """Without a configuration, and without making anything."""
    done = voicespool(tmp_path, name, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert os.listdir(tmp_path) == []


def test_the_installed_command_says_its_version(tmp_path: Path) -> None:
    """`voicespool` and `python -m watcher` are one."""
    script = Path(sys.executable).with_name("voicespool")
    said = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert said.startswith("voicespool ")
    assert voicespool(tmp_path, "--version").stdout == said


@pytest.mark.parametrize("what", ["job", "manifest", "config", "status"])
def test_schemas_are_printed(tmp_path: Path, what: str) -> None:
    """Each is a JSON Schema."""
    jsonschema.Draft202012Validator.check_schema(json.loads(voicespool(tmp_path, "schema", what).stdout))


def test_a_newcomer_gets_to_speech_with_what_init_prints(tmp_path: Path) -> None:
    """init prints the next commands; they work as printed."""
    next_steps = voicespool(tmp_path, "init", "my studio").stdout.splitlines()[1:]
    script = "\n".join(next_steps).replace("voicespool", f"{sys.executable} -m watcher")
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my studio/outbox/example/example.wav").is_file()


# --- exit codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["status", "--bogus"], ["submit"], ["submit", "--text", "x", "a.yaml"], ["retry", ".x"],
     ["submit", "a.yaml", "--seed", "1"], ["submit", "--text", "x", "--name", "../x"],
     ["submit", "--text", "x", "--setting", "speed"], ["submit", "--text", "x", "--priority", "10"],
     ["run", "--once", "--until-idle"], ["schema", "bogus"]],
)  # fmt: skip
def test_wrong_usage_is_2(tmp_path: Path, arguments: list[str]) -> None:
    """With a word about the right one."""
    done = voicespool(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("outbux: x", "did you mean `outbox`?"),
        ("outbox: inbox/out", "is inside inbox"),
        ("defaults: {engine: piper}", "piper"),
        ("defaults: {engine: espaek}", "espeak"),
        ("defaults: {language: tlh-x-none-at-all-which-is-too-long}", "defaults.language"),
        ("defaults: {output: {subtitles: [srt]}}", "not available in this version"),
    ],
)
def test_a_wrong_configuration_is_3(tmp_path: Path, config: str, words: str) -> None:
    """The daemon does not start, and says what to mend."""
    (tmp_path / "config.yaml").write_text(config)
    done = voicespool(tmp_path, "run", "--once")
    assert done.returncode == 3, done.stderr
    assert words in done.stderr


def test_a_configuration_that_is_not_there_is_3(tmp_path: Path) -> None:
    """When it was named."""
    assert voicespool(tmp_path, "--config", "nowhere.yaml", "status").returncode == 3
    assert voicespool(tmp_path, "status", VOICESPOOL_CONFIG="nowhere.yaml").returncode == 3


def test_an_inbox_that_is_not_there_is_75(tmp_path: Path) -> None:
    """For clients: it may be an unmounted share."""
    done = voicespool(tmp_path, "submit", "--text", "Hello.")
    assert done.returncode == 75
    assert "is not there" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_second_daemon_is_75(spool: Spool) -> None:
    """It says who has the inbox."""
    process = spool.start()
    done = spool.command("run", "--once")
    assert done.returncode == 75
    assert str(process.pid) in done.stderr


def test_a_bug_is_70_with_a_report_worth_pasting(tmp_path: Path) -> None:
    """Version, Python, platform, command and traceback; no values of options."""
    code = (
        "import sys, watcher.cli.main as cli, watcher.client.status as status\n"
        "def broken(config): raise ZeroDivisionError('oops \\x1b[2J')\n"
        "status.look = broken\n"
        "sys.argv = ['voicespool', '--config=secret.yaml', 'status']\n"
        "open('secret.yaml', 'w').close()\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 70
    for words in ("voicespool 0", "Python 3", "command: voicespool --config status", "ZeroDivisionError: oops"):
        assert words in done.stderr
    assert "secret" not in done.stderr
    assert harmless(done.stderr)


def test_an_interrupted_command_is_130(spool: Spool) -> None:
    """Ctrl-C ends the waiting, quietly; the job stays."""
    spool.write_config()
    process = subprocess.Popen(
        [sys.executable, "-m", "watcher", "--config", str(spool.config_file), "submit", "--text", "Hello.", "--wait"],
        env=environment(), cwd=spool.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _out, rest = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "no daemon is running" in said
    assert "Traceback" not in rest
    assert (spool.inbox / "hello.yaml").is_file()


@pytest.mark.parametrize("arguments", [["schema", "job"], ["engines", "--json"], ["doctor"]])
def test_a_reader_that_has_enough_is_no_error(tmp_path: Path, arguments: list[str]) -> None:
    """`voicespool … | head` is quiet."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "watcher", *arguments], cwd=tmp_path, env=environment(), stdout=closed,
            stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_an_inbox_that_may_not_be_written_is_a_hold_for_everybody(tmp_path: Path) -> None:
    """75 for the daemon, the client and the doctor; root takes part without its right to write everywhere."""
    inbox = tmp_path / "inbox"
    inbox.mkdir(mode=0o555)
    if os.geteuid() == 0:
        os.chown(inbox, 65534, 65534)
    mortal = (  # PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        "import ctypes, os, sys\n"
        "for right in (1, 2): ctypes.CDLL(None).prctl(24, right, 0, 0, 0)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'watcher', *sys.argv[1:]])\n"
    )
    for arguments in (["run", "--once"], ["submit", "--text", "Hello."], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-c", mortal, *arguments],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 75, (arguments, done.stdout, done.stderr)


# --- validate -------------------------------------------------------------------------------------------------------


def test_validate_names_every_problem_with_file_and_line(spool: Spool) -> None:
    """On stdout, in the form that editors jump to; 1 when there is any, also with --json."""
    good, bad = spool.folder / "good.yaml", spool.folder / "bad.yaml"
    good.write_text("text: Hello.\n")
    bad.write_text("txt: Hello.\npriority: 11\n")
    assert spool.command("validate", "good.yaml").returncode == 0
    done = spool.command("validate", "good.yaml", "bad.yaml")
    assert done.returncode == 1
    assert {line.split(": ")[0] for line in done.stdout.splitlines()} >= {"bad.yaml:1", "bad.yaml:2"}
    report = json.loads(spool.command("validate", "--json", "good.yaml", "bad.yaml").stdout)
    assert [file["valid"] for file in report["files"]] == [True, False]


# --- the running daemon's own settings ------------------------------------------------------------------------------


def rewrite(spool: Spool, **changes: Any) -> None:
    spool.config_file.write_text(json.dumps(spool.config | changes, default=str))


def ask(spool: Spool, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that leaves config.yaml as a test has written it."""
    return voicespool(spool.folder, "--config", str(spool.config_file), *arguments)


def test_reload_says_what_took_effect_and_what_needs_a_restart(speaking: Spool) -> None:
    """The daemon's own answer; the keys are in status.json too, which keeps to its schema."""
    speaking.start()
    assert ask(speaking, "reload").stdout == "no key has changed\n"
    limits = {"attempts": 7, "retry_delays_s": [0]}
    rewrite(speaking, limits=limits, outbox=str(speaking.folder / "elsewhere"))
    done = ask(speaking, "reload")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "took effect: limits.attempts\nneeds a restart of the daemon: outbox\n"
    answer = json.loads(ask(speaking, "reload", "--json").stdout)
    assert (answer["changed"], answer["pending_restart"], answer["error"]) == ([], ["outbox"], None)
    said = json.loads(ask(speaking, "status", "--json").stdout)
    jsonschema.validate(said, json.loads(voicespool(speaking.folder, "schema", "status").stdout))
    assert said["config"]["outbox"] == str(speaking.outbox)
    assert "needs a restart: outbox" in ask(speaking, "status").stdout


def test_a_mistake_in_the_configuration_does_not_hide_the_daemon(speaking: Spool) -> None:
    """`status` shows both and exits with 3, also with an inbox elsewhere; so does `reload`, and the old one stays."""
    speaking.config["inbox"] = speaking.folder / "drop here"
    speaking.config["inbox"].mkdir()
    process = speaking.start()
    for text in ("inbox: drop here\nlimits: {attempts: none}\n", "inbox: drop here\nlimits: [\n"):
        speaking.config_file.write_text(text)
        done = ask(speaking, "status")
        assert done.returncode == 3, done.stderr
        assert f"process {process.pid}" in done.stdout
        assert "config.yaml:" in done.stderr
        done = ask(speaking, "status", "--json")
        assert json.loads(done.stdout)["daemon"]["pid"] == process.pid
        assert "config.yaml:" in json.loads(done.stdout)["config_error"]
        done = ask(speaking, "reload")
        assert done.returncode == 3, done.stderr
        assert "keeps its previous configuration" in done.stderr
        assert "the daemon keeps the previous configuration" in ask(speaking, "status").stdout
    speaking.drop("hello.yaml", "text: Hello.\nspeaker: nobody\n")
    speaking.result("hello.failed")
    assert ask(speaking, "retry", "hello", "--wait").stdout.strip() == str(speaking.outbox / "hello.failed~2")
    assert ask(speaking, "cancel", "nothing").returncode == 1
    assert speaking.stop() == 0


def test_commands_look_where_the_running_daemon_publishes(speaking: Spool) -> None:
    """After a changed `outbox`, with and without SIGHUP, until the daemon is restarted."""
    speaking.start()
    (speaking.folder / "elsewhere").mkdir()
    rewrite(speaking, outbox=str(speaking.folder / "elsewhere"))
    for name in ("one", "two"):
        done = ask(speaking, "submit", "--text", "Hello.", "--name", name, "--wait")
        assert (done.returncode, done.stdout.strip()) == (0, str(speaking.outbox / name)), done.stderr
        assert ask(speaking, "reload").returncode == 0
    speaking.drop("bad.yaml", "text: Hello.\nspeaker: nobody\n")
    speaking.result("bad.failed")
    assert ask(speaking, "retry", "bad").returncode == 0
    speaking.stop()
    assert ask(speaking, "retry", "bad").returncode == 1, "without a daemon config.yaml counts"


def test_reload_asks_nobody_who_is_not_the_daemon(speaking: Spool) -> None:
    """No daemon: 1. A lock that names another process or another machine: no signal is sent."""
    rewrite(speaking)
    assert ask(speaking, "reload").returncode == 1
    speaking.start()
    lock = speaking.state / "lock"
    mine = json.loads(lock.read_text())
    other = subprocess.Popen(["sleep", "1000"])
    try:
        for told, words in (
            ({"pid": other.pid}, "is not the daemon of this inbox"), ({"host": "elsewhere"}, "runs on elsewhere"),
        ):  # fmt: skip
            lock.write_text(json.dumps(mine | told))
            done = ask(speaking, "reload")
            assert done.returncode == 1
            assert words in done.stderr
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    speaking.stop(signal.SIGKILL)


# --- submit, status, retry, cancel with a daemon --------------------------------------------------------------------


def test_submit_and_wait_prints_the_result_and_nothing_else(speaking: Spool) -> None:
    """Text, files of several jobs, a name in a subfolder: the folders on stdout, fit for a script."""
    speaking.start()
    many = speaking.folder / "many.yaml"
    many.write_text("text: One.\n---\ntext: Two.\n")
    done = speaking.command("submit", "--text", "Bom dia.", "--language", "pt-BR", "--name", "radio/dia", "--wait")
    assert (done.returncode, done.stdout.splitlines()) == (0, [str(speaking.outbox / "radio/dia")]), done.stderr
    assert (speaking.outbox / "radio/dia/dia.wav").is_file()
    done = speaking.command("submit", "--wait", "many.yaml")
    assert done.stdout.splitlines() == [str(speaking.outbox / "many-1"), str(speaking.outbox / "many-2")]
    again = json.loads(speaking.command("submit", "--wait", "--json", "many.yaml").stdout)
    assert [job["folder"] for job in again["jobs"]] == [f"{speaking.outbox}/many-{n}~2" for n in (1, 2)]


def test_a_wrong_file_is_not_dropped_unless_forced(speaking: Spool) -> None:
    """1 and the reasons; with --force the daemon says them, and --wait gives 1 with the folder."""
    (speaking.folder / "bad.yaml").write_text("text: Hello.\nspeaker: nobody\n")
    (speaking.folder / "good.yaml").write_text("text: Hello.\n")
    done = speaking.command("submit", "bad.yaml", "good.yaml")
    assert done.returncode == 1
    assert "bad.yaml:2: speaker" in done.stderr
    assert sorted(path.name for path in speaking.inbox.glob("*.yaml")) == ["good.yaml"]
    speaking.start()
    done = speaking.command("submit", "--force", "--wait", "bad.yaml")
    assert (done.returncode, done.stdout.strip()) == (1, str(speaking.outbox / "bad.failed"))
    assert "nobody" in done.stderr


def test_retry_runs_a_mended_job_again(speaking: Spool) -> None:
    """From its failed result, under its old name."""
    speaking.drop("radio/hello.yaml", "text: Hello.\nspeaker: nobody\n")
    speaking.start()
    (speaking.result("radio/hello.failed") / "hello.yaml").write_text("text: Hello.\n")
    done = speaking.command("retry", "radio/hello")
    assert (done.returncode, done.stdout.strip()) == (0, str(speaking.inbox / "radio/hello.yaml"))
    assert speaking.manifest("radio/hello")["status"] == "done"
    assert speaking.command("retry", "nothing").returncode == 1


def test_wait_has_an_end(speaking: Spool) -> None:
    """--timeout: 75, the job stays, and what it waits for is said; it goes with --wait alone."""
    done = speaking.command("submit", "--text", "Hello.", "--name", "a", "--wait", "--timeout", "0.1")
    assert done.returncode == 75
    assert "no daemon is running for this inbox" in done.stderr
    assert "a: not done after 0.1 s; dropped" in done.stderr
    assert (speaking.inbox / "a.yaml").exists()
    assert speaking.command("submit", "--text", "Hello.", "--timeout", "1").returncode == 2


def test_retry_can_wait(speaking: Spool) -> None:
    """As submit does: the folder on stdout, 1 when it failed again."""
    speaking.drop("radio/hello.yaml", "text: Hello.\nspeaker: nobody\n")
    speaking.start()
    failed = speaking.result("radio/hello.failed")
    done = speaking.command("retry", "radio/hello", "--wait")
    assert (done.returncode, done.stdout.strip()) == (1, str(speaking.outbox / "radio/hello.failed~2")), done.stderr
    (failed.with_name("hello.failed~2") / "hello.yaml").write_text("text: Hello.\n")
    done = speaking.command("retry", "radio/hello", "--wait")
    assert (done.returncode, done.stdout.strip()) == (0, str(speaking.outbox / "radio/hello"))
    counts = speaking.status()["counts"]
    assert (counts["done"], counts["failed"], counts["repaired"]) == (1, 0, 2)
    assert "failed, done since" in speaking.command("status").stdout


def test_a_run_counts_only_failures_that_it_did_not_repair(speaking: Spool) -> None:
    """`run --once`: 1 for a job that failed, 0 when the same name was done later in the same run."""
    speaking.drop("a.yaml", "text: Hello.\nspeaker: nobody\npriority: 9\n")
    assert speaking.once().returncode == 1
    speaking.drop("a.yaml", "text: Hello.\nspeaker: nobody\npriority: 9\n")
    speaking.drop("a.yml", "text: Hello.\npriority: 1\n")
    assert speaking.once().returncode == 0


def test_a_text_in_the_place_of_a_file_is_recognised(tmp_path: Path) -> None:
    """The right command is in the answer, fit to be pasted."""
    done = voicespool(tmp_path, "submit", "Hello, it's me")
    assert done.returncode == 2
    assert """voicespool submit --text 'Hello, it'"'"'s me'""" in done.stderr
    assert voicespool(tmp_path, "submit", "hello.yaml").returncode == 1, "a file that is not there"


def test_cancel_without_a_daemon_says_who_does_it(speaking: Spool) -> None:
    """The file waits for the next daemon; a name that is nearly right is named."""
    speaking.drop("news.yaml", "text: Hello.\n")
    done = speaking.command("cancel", "nwes")
    assert done.returncode == 1
    assert "did you mean `news`?" in done.stderr
    done = speaking.command("cancel", "news")
    assert done.returncode == 0
    assert "news: waiting" in done.stdout
    assert "no daemon is running; the next one reads news.cancel in the inbox" in done.stdout
    assert speaking.once().returncode == 0
    assert speaking.results() == ["news.cancelled"]


def test_cancel_of_a_held_file_that_can_not_be_taken_says_so(speaking: Spool) -> None:
    """A file in a folder that the daemon may not write: 1, the reason, and no cancel file is left."""
    if os.geteuid() != 0:
        pytest.skip("needs a client that may write where the daemon may not: root")
    job = speaking.drop("team/news.yaml", "text: Hello.\n")
    job.parent.chmod(0o555)
    speaking.prefix = as_an_ordinary_user()
    speaking.start()
    until(lambda: speaking.status().get("held"), "the file is held")
    speaking.prefix = ()
    done = speaking.command("cancel", "team/news")
    assert done.returncode == 1, done.stdout
    assert "team/news: held (it can't be moved out of its folder: Permission denied" in done.stderr
    assert "so it is not cancelled" in done.stderr
    assert os.listdir(job.parent) == ["news.yaml"]


def test_cancel_cancels_what_waits(speaking: Spool) -> None:
    """A job that waits for its time; for one that ended, or that nobody knows, nothing is dropped."""
    speaking.drop("later.yaml", "text: Later.\nnot_before: 2999-01-01T00:00:00Z\n")
    speaking.start()
    until(lambda: speaking.status().get("next"), "the job is queued")
    done = speaking.command("cancel", "later")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cancelling later: queued\n", "")
    assert speaking.manifest("later.cancelled")["status"] == "cancelled"
    until(lambda: speaking.status()["counts"]["cancelled"] == 1, "the status says so")
    done = speaking.command("cancel", "later")
    assert done.returncode == 1
    assert f"later has ended (cancelled); its result is {speaking.outbox}/later.cancelled" in done.stderr
    done = speaking.command("cancel", "bogus")
    assert done.returncode == 1
    assert "no waiting, queued or running job is named bogus" in done.stderr
    assert not list(speaking.inbox.glob("*.cancel"))


def test_status_tells_what_a_live_daemon_does(speaking: Spool) -> None:
    """As JSON by the schema, with the daemon; as text; and after its end."""
    speaking.drop("later.yaml", "text: Later.\nnot_before: 2999-01-01T00:00:00Z\n")
    speaking.drop("notes.txt", "not a job")
    (speaking.inbox / "empty.yaml").touch()
    process = speaking.start()
    until(lambda: speaking.status().get("next") and speaking.status().get("waiting"), "all files have a reason")
    said = json.loads(speaking.command("status", "--json").stdout)
    assert said["daemon"]["running"] is True
    assert said["daemon"]["pid"] == process.pid
    jsonschema.validate(said, json.loads(speaking.command("schema", "status").stdout))
    text = speaking.command("status").stdout
    for words in ("later", "empty.yaml", "it is empty", "notes.txt", f"process {process.pid}"):
        assert words in text
    speaking.stop()
    assert "no daemon is running; the last one stopped" in speaking.command("status").stdout


def test_names_of_files_can_not_steer_the_terminal(speaking: Spool) -> None:
    """Escape sequences, newlines and bidirectional overrides in names: in status, in the log, in validate."""
    for name in (f"{NASTY}.yaml", f"{NASTY}.txt"):
        (speaking.inbox / name).write_text("text: Hello.")
    (speaking.folder / f"{NASTY}.yaml").write_text(f"'{NASTY.replace(chr(27), '').replace(chr(7), '')}': 1\n")
    before = speaking.command("status")
    run = speaking.once()
    after = speaking.command("status")
    valid = speaking.command("validate", f"{NASTY}.yaml", f"no{NASTY}.yaml")
    submit = speaking.command("submit", f"{NASTY}.yaml", "--force")
    for done in (before, run, after, valid, submit, speaking.command("status", "--json")):
        assert harmless(done.stdout + done.stderr)
        assert not any(line.startswith("fake") for line in (done.stdout + done.stderr).splitlines())
    assert "owned" in before.stdout
    assert "owned" in after.stdout


def test_watching_shows_changes_until_interrupted(speaking: Spool) -> None:
    """With --json one line for each change; Ctrl-C is 130."""
    speaking.write_config()
    process = subprocess.Popen(
        [sys.executable, "-m", "watcher", "--config", str(speaking.config_file), "status", "--watch", "--json"],
        env=environment(), cwd=speaking.folder, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["inbox"]["count"] == 0
    speaking.drop("hello.yaml")
    assert json.loads(process.stdout.readline())["inbox"]["files"] == ["hello.yaml"]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    process.stdout.close()


def test_watching_on_a_terminal_draws_and_gives_the_terminal_back(speaking: Spool) -> None:
    """A picture with the waiting file; at the end the cursor is shown again."""
    speaking.drop("hello.yaml")
    speaking.write_config()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "watcher", "--config", str(speaking.config_file), "status", "--watch"],
        env=environment(TERM="xterm"), cwd=speaking.folder, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"hello.yaml" not in seen:
        seen += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:
        pass  # the other end was closed
    os.close(ours)
    assert process.wait(PATIENCE_S) == 130
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
