"""`voicespool checkpoints`, as its users meet it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.headers import EMA, F5, TONE, flow, save
from tests.hub import place, vocos_release
from tests.model_files import Runs
from tests.spooling import PATIENCE_S, Spool, below, environment, until

NASTY = "a\x1b[2J\u202e.safetensors"


@pytest.fixture
def models(spool: Spool) -> Path:
    """Two checkpoints of a run, the better one first, and one that has no loss."""
    save(spool.folder / "models/ana/checkpoint_900.safetensors", F5, val_loss="0.25", train_loss="0.125", step="900")
    save(spool.folder / "models/ana/checkpoint_1000.safetensors", F5, val_loss="0.5")
    save(spool.folder / "models/rui.safetensors", TONE)
    place(spool.folder / "models/vocos-mel-24khz", vocos_release())  # without it no F5 loads
    return spool.folder / "models"


def said(spool: Spool, *arguments: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(spool.command("checkpoints", *arguments, "--json").stdout)


def job(checkpoint: str) -> str:
    return json.dumps({"text": "Good morning.", "engine": "tuned", "speaker": "x", "checkpoint": checkpoint})


# --- list, show, inspect ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("models")
def test_list_shows_every_model_in_natural_order(spool: Spool) -> None:
    """With its training, which one is the best, and why one does not load."""
    done = spool.command("checkpoints", "list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == [
        "name", "ana/checkpoint_900.safetensors", "ana/checkpoint_1000.safetensors", "rui.safetensors"
    ]  # fmt: skip
    assert lines[1].split()[1:2] == ["f5"]
    assert {"900", "0.25", "0.125", "best"} <= set(lines[1].split())
    assert "best" not in lines[2]
    assert lines[4].startswith("    It is not a supported speech model")
    listed = said(spool, "list")["checkpoints"]
    assert [(one["name"], one["best"]) for one in listed] == [
        ("ana/checkpoint_900.safetensors", True), ("ana/checkpoint_1000.safetensors", False), ("rui.safetensors", False)
    ]  # fmt: skip
    assert listed[0]["validation_loss"] == 0.25
    assert listed[2]["loads"] is False
    assert listed[2]["why_not"]


def test_list_without_models_says_so(spool: Spool) -> None:
    """A folder that is not there holds none."""
    done = spool.command("checkpoints", "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "models" in done.stderr
    assert said(spool, "list") == {"checkpoints": []}


@pytest.mark.parametrize("name", ["ana/best", "checkpoint_900", "ana/checkpoint_900.safetensors"])
@pytest.mark.usefixtures("models")
def test_show_takes_the_names_that_jobs_use(spool: Spool, name: str) -> None:
    """And says whether the model will load by its exit code too."""
    one = said(spool, "show", name)
    assert one["name"] == "ana/checkpoint_900.safetensors"
    assert one["best"] is True
    done = spool.command("checkpoints", "show", name)
    assert done.returncode == (0 if one["loads"] else 1)
    assert "0.25, the best in its folder" in done.stdout


@pytest.mark.usefixtures("models")
def test_a_name_of_no_model_and_one_of_several_are_4(spool: Spool) -> None:
    """With those there are."""
    for name, words in (("nobody", "unknown model"), ("ana", "fits several"), ("../config", "is outside")):
        done = spool.command("checkpoints", "show", name)
        assert (done.returncode, done.stdout) == (4, "")
        assert words in done.stderr


def test_inspect_takes_any_file_and_runs_nothing_in_it(spool: Spool) -> None:
    """A hostile one is named as what it is."""
    import torch

    path, witness = spool.folder / "downloaded.pth", spool.folder / "ran"
    torch.save({"model": Runs(witness)}, path)
    done = spool.command("checkpoints", "inspect", str(path))
    assert done.returncode == 1
    assert "unpickling it would run os.system" in done.stdout
    assert not witness.exists()
    assert spool.command("checkpoints", "inspect", "nowhere.pth").returncode == 2


@pytest.fixture
def reported(spool: Spool) -> Path:
    """The file of the report that started voicespool, by its header: a healthy pt-BR fine-tune of F5-TTS Base."""
    place(spool.folder / "models/vocos-mel-24khz", vocos_release())
    return save(spool.folder / "model_last.safetensors", {**flow("F5-TTS Base", prefix="ema_model."), **EMA})


IN_SHORT = "F5-TTS Base (DiT 1024×22, text 512), vocabulary 2545 + 1, float32, EMA; "


def test_the_reported_file_is_told_in_a_line(spool: Spool, reported: Path) -> None:
    """What it is, with its vocabulary and precision, and that it loads; and what could settle v0 or v1."""
    done = spool.command("checkpoints", "inspect", str(reported))
    text = " ".join(done.stdout.split())
    assert done.returncode == 0
    assert f"{IN_SHORT}loads as f5" in text
    assert "set `variant: v0` or `variant: v1` in model_last.yaml next to it" in text
    assert len(done.stdout.splitlines()) < 16
    one = said(spool, "inspect", str(reported))
    assert (one["averaged"], one["vocabulary"], one["variant"]["name"]) == (True, 2546, "unknown")
    assert (one["sizes"]["family"], one["sizes"]["depth"], one["sizes"]["heads"]) == ("dit", 22, 16)
    (reported.with_name("model_last.yaml")).write_text("variant: v0")
    assert said(spool, "inspect", str(reported))["variant"]["flags"] == {
        "text_mask_padding": False, "pe_attn_head": 1, "average_upsampling": False
    }  # fmt: skip


def test_why_a_file_is_not_another_model_is_told_in_few_lines(spool: Spool, reported: Path) -> None:
    """The wall of `size mismatch` that the report had, in three."""
    done = spool.command("checkpoints", "inspect", str(reported), "--as", "e2-base")
    assert done.returncode == 1
    told = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert told[0].startswith(f"{reported}: {IN_SHORT}")
    assert "It does not load as E2-TTS Base:" in told
    assert "backbone DiT, 22 blocks, 1024 wide UNetT, 24 layers, 1024 wide" in told
    assert "text embedding [2546, 512] [2546, 100]" in told
    assert "input [1024, 712] [1024, 300]" in told
    assert len(told) < 10
    compared = said(spool, "inspect", str(reported), "--as", "E2-Base")["as"]
    assert (compared["name"], compared["fits"]) == ("E2-TTS Base", False)
    assert compared["differences"][1] == {"what": "text embedding", "has": "[2546, 512]", "needs": "[2546, 100]"}


def test_a_file_is_compared_with_what_it_is_and_with_what_it_is_not_at_all(spool: Spool, reported: Path) -> None:
    """It has the sizes of its own kind; a file that is no such model has none."""
    done = spool.command("checkpoints", "inspect", str(reported), "--as", "f5-base")
    assert done.returncode == 0
    assert "It has the sizes of F5-TTS Base." in done.stdout
    done = spool.command("checkpoints", "inspect", str(save(spool.folder / "tone.safetensors")), "--as", "f5-base")
    assert done.returncode == 1
    assert "not a speech model" in done.stdout
    done = spool.command("checkpoints", "inspect", str(reported), "--as", "f5-bass")
    assert done.returncode == 2
    assert "did you mean `f5-base`?" in done.stderr


def test_a_vocabulary_that_fits_is_named_with_its_place_in_models(spool: Spool, models: Path) -> None:
    """`show` and `list` look through models/ for it, for a model that lacks its own."""
    save(models / "eva/model.safetensors", flow(symbols=88))
    (models / "ana/vocab.txt").write_text(" \n" + "".join(f"{n}\n" for n in range(87)))
    for arguments in (["show", "eva"], ["list"]):
        text = " ".join(spool.command("checkpoints", *arguments).stdout.split())
        assert "There is no vocab.txt next to it, and it was trained with 88 symbols." in text
        assert "models/ana/vocab.txt has as many: copy it next to the model if" in text


def test_names_and_contents_can_not_steer_the_terminal(spool: Spool) -> None:
    """Neither what a file is called nor what it holds."""
    save(spool.folder / "models" / NASTY, {"\x1b]0;title\x07": (1,)}, step="\x1b[2J")
    for arguments in (["list"], ["list", "--json"], ["show", NASTY], ["delete", NASTY]):
        done = spool.command("checkpoints", *arguments)
        assert all(char.isprintable() or char == "\n" for char in done.stdout + done.stderr)


@pytest.mark.parametrize("command", ["list", "show", "inspect", "delete"])
def test_every_command_explains_itself_with_an_example(spool: Spool, command: str) -> None:
    assert "Example" in spool.command("checkpoints", command, "--help").stdout


# --- delete ----------------------------------------------------------------------------------------------------------


def refusal(spool: Spool, name: str) -> str:
    """Why a model is not deleted; it is still there."""
    before = sorted(below(spool.folder, "*.safetensors"))
    done = spool.command("checkpoints", "delete", name, "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert sorted(below(spool.folder, "*.safetensors")) == before
    return done.stderr


def test_delete_removes_the_file_alone(spool: Spool, models: Path) -> None:
    """With --yes, and prints what it was."""
    (models / "ana/config.json").write_text("{}")
    done = spool.command("checkpoints", "delete", "checkpoint_1000", "--yes")
    assert (done.returncode, done.stdout) == (0, f"{models}/ana/checkpoint_1000.safetensors\n")
    assert sorted(os.listdir(models / "ana")) == ["checkpoint_900.safetensors", "config.json"]
    assert said(spool, "delete", "rui", "--yes")["deleted"]["name"] == "rui.safetensors"
    assert not (models / "rui.safetensors").exists()


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 130), (b"\n", 130), (b"y\n", 0)])
def test_delete_asks_at_a_terminal(spool: Spool, models: Path, answer: bytes, code: int) -> None:
    """Anything but yes keeps the file."""
    spool.write_config()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "watcher", "--config", str(spool.config_file), "checkpoints", "delete", "rui"],
        env=environment(), cwd=spool.folder, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, answer)
    _out, complaints = process.communicate(timeout=PATIENCE_S)
    os.close(ours)
    assert process.returncode == code
    assert b"Delete rui.safetensors" in complaints
    assert (models / "rui.safetensors").exists() == (code != 0)


@pytest.mark.usefixtures("models")
def test_delete_without_a_terminal_needs_yes(spool: Spool) -> None:
    """A script that forgot it gets told."""
    done = spool.command("checkpoints", "delete", "rui")
    assert done.returncode == 2
    assert "--yes" in done.stderr


@pytest.mark.usefixtures("models")
def test_the_best_of_a_folder_stays(spool: Spool) -> None:
    """Nobody deletes it by mistake."""
    assert "lowest validation loss" in refusal(spool, "checkpoint_900")


def test_a_model_outside_of_models_stays(spool: Spool, models: Path) -> None:
    """It may be used, where the configuration allows it, but it is not ours."""
    elsewhere = save(spool.folder / "elsewhere/model.safetensors", TONE)
    (models / "linked.safetensors").symlink_to(elsewhere)
    spool.config["allowed_roots"] = [str(elsewhere.parent)]
    assert "is outside of" in refusal(spool, "linked")


@pytest.mark.usefixtures("models")
def test_a_model_that_the_configuration_names_stays(spool: Spool) -> None:
    """Every job that names none would need it."""
    spool.config["defaults"] = {"engine": "tuned", "checkpoint": "rui"}
    assert "defaults.checkpoint" in refusal(spool, "rui")


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_model_that_a_dropped_job_names_stays(spool: Spool, encoding: str) -> None:
    """Though no daemon has seen the job yet. Jobs that name others, and files that are no jobs, do not matter."""
    spool.drop("other.json", job("nobody"))
    spool.drop("broken.yaml", "checkpoint: [")
    spool.drop("radio/news.json", job("rui").encode(encoding))
    assert "radio/news.json names it" in refusal(spool, "rui")


@pytest.mark.usefixtures("models")
def test_a_model_that_is_loaded_or_that_a_claimed_job_names_stays(spool: Spool) -> None:
    """While a daemon runs, and after it stopped with the job put back."""
    spool.drop("first.json", job("rui"))
    spool.start()
    spool.result("first")
    until(lambda: (spool.status().get("warm") or {}).get("checkpoint"), "the model stays loaded")
    assert "has it loaded" in refusal(spool, "rui")
    (spool.inbox / "PAUSE").touch()
    until(lambda: spool.status().get("state") == "paused", "the daemon pauses")
    spool.drop("second.json", job("rui"))
    until(spool.claims, "the job is claimed")
    spool.stop()
    assert "second.json names it" in refusal(spool, "rui")
    (spool.inbox / "PAUSE").unlink()
    assert spool.once().returncode == 0
    assert spool.command("checkpoints", "delete", "rui", "--yes").returncode == 0
