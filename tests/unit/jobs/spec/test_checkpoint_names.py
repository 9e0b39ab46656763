"""Which file a job means by the name of a model, with real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.checkpoints import inspection
from files.allowed_paths import NotAllowed
from jobs.spec.checkpoint_names import MAX_FOLDERS, Models, Unresolved, find
from tests.headers import F5, TONE, save


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def lay(models: Path, *names: str) -> None:
    for name in names:
        save(models / name)


def refused(models: Path, name: str, *allowed_roots: Path) -> str:
    with pytest.raises(NotAllowed) as refusal:
        find(models, name, allowed_roots)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("anna/best_model.pth", "anna/best_model.pth"),
        ("anna/best_model", "anna/best_model.pth"),
        ("./anna/best_model", "anna/best_model.pth"),
        ("anna", "anna/best_model.pth"),
        ("anna/", "anna/best_model.pth"),
        ("rui", "clients/rui/model.safetensors"),
        ("clients/rui", "clients/rui/model.safetensors"),
        ("model", "clients/rui/model.safetensors"),
        ("checkpoint_2000", "anna/checkpoint_2000.pth"),
        ("checkpoint_2000.pth", "anna/checkpoint_2000.pth"),
        ("zoe", "zoe.pt"),
        ("deep", "deep/run/out/last.pt"),
        ("out", "deep/run/out/last.pt"),
        ("v1.5", "v1.5.pth"),
        ("joão", "joão/m.pth"),
    ],
)
def test_a_name_stands_for_one_file(models: Path, name: str, file: str) -> None:
    """Whole paths with and without ending, folders by what is in them, names alone however deep; NFC and NFD."""
    lay(models, "anna/best_model.pth", "anna/checkpoint_1000.pth", "anna/checkpoint_2000.pth", "zoe.pt", "v1.5.pth")
    lay(models, "clients/rui/model.safetensors", "clients/rui/best_model.pth.pt", "deep/run/out/last.pt")
    lay(models, "joa\u0303o/m.pth")
    expected = models / file
    if file.startswith("joão"):
        expected = models / "joa\u0303o/m.pth"
    assert find(models, name) == expected.resolve()


def test_a_finished_model_comes_before_the_trainers_best_and_that_before_the_rest(models: Path) -> None:
    """`model.*`, `best_model.*`, the only one, the only one below."""
    lay(models, "anna/run/last.pth")
    assert find(models, "anna").name == "last.pth"
    lay(models, "anna/last.pth")
    assert find(models, "anna").parent.name == "anna"
    lay(models, "anna/best_model.pth")
    assert find(models, "anna").name == "best_model.pth"
    lay(models, "anna/model.pth")
    assert find(models, "anna").name == "model.pth"
    lay(models, "anna/model.safetensors")
    assert "anna/model.pth and anna/model.safetensors" in refused(models, "anna")


def test_what_fits_several_is_refused_with_a_list(models: Path) -> None:
    """A stem, a file name, a folder without precedence, a folder and a file."""
    lay(models, "anna/best_model.pth", "rui/best_model.pth", "zoe/a.pth", "zoe/b.pth", "mixed/one.pth", "mixed.pth")
    for name in ("best_model", "best_model.pth"):
        assert refused(models, name) == (
            f'"{name}" fits several models: anna/best_model.pth and rui/best_model.pth; name one by its path'
        )
    assert "zoe/a.pth and zoe/b.pth" in refused(models, "zoe")
    assert "mixed.pth and mixed/one.pth" in refused(models, "mixed")
    assert find(models, "mixed.pth") == (models / "mixed.pth").resolve()


def test_a_whole_path_wins_over_the_same_name_elsewhere(models: Path) -> None:
    """Else the one at the top could not be named at all."""
    lay(models, "anna.pth", "old/anna.pth")
    assert find(models, "anna.pth") == (models / "anna.pth").resolve()
    assert "anna.pth and old/anna.pth" in refused(models, "anna")


def test_two_names_of_one_file_are_one(models: Path) -> None:
    """A trainer's best_model.pth is often a link to the step that was best."""
    lay(models, "anna/step_1000.pth")
    (models / "anna/latest.pth").symlink_to("step_1000.pth")
    assert find(models, "anna") == (models / "anna/step_1000.pth").resolve()
    assert Models(models).refer("anna/latest").name == "anna/step_1000.pth"


def test_a_folder_may_have_a_second_name(models: Path) -> None:
    """A link to the run that is in use."""
    save(models / "runs/7/last.safetensors", val_loss=1)
    (models / "current").symlink_to("runs/7")
    for name in ("current", "current/last", "current/best"):
        assert find(models, name) == (models / "runs/7/last.safetensors").resolve()


def test_what_is_not_there_is_named_with_what_is(models: Path) -> None:
    assert refused(models, "anna") == 'unknown model "anna"; models/ has no model files'
    lay(models, "anna/model.pth")
    assert "available in models/: anna/model.pth; did you mean `anna`?" in refused(models, "ana")
    assert 'unknown model "anna/modle"' in refused(models, "anna/modle")
    assert "did you mean `anna/model`?" in refused(models, "anna/modle")
    assert "\x1b" not in refused(models, "an\x1b[31m")


OUT = ["../secret.pth", "anna/../../secret.pth", "/etc/passwd", "anna/link.pth", "anna/link", "out/x.pth", "out"]


@pytest.mark.parametrize("name", OUT)
def test_what_leads_out_is_refused(models: Path, tmp_path: Path, name: str) -> None:
    """`..`, absolute paths, links to files and to folders; and nobody learns whether a file is there."""
    lay(models, "anna/model.pth")
    save(tmp_path / "secret.pth")
    save(tmp_path / "elsewhere/x.pth")
    (models / "anna/link.pth").symlink_to(tmp_path / "secret.pth")
    (models / "out").symlink_to(tmp_path / "elsewhere")
    assert "is outside the spool's folders" in refused(models, name)


def test_allowed_roots_allow(models: Path, tmp_path: Path) -> None:
    """Absolute names, and links in models/, into folders that the operator lists."""
    far = save(tmp_path / "far/x.pth").resolve()
    models.mkdir()
    (models / "link.pth").symlink_to(far)
    assert find(models, str(far), [tmp_path / "far"]) == far
    assert find(models, "link", [tmp_path / "far"]) == far
    assert Models(models, (tmp_path / "far",)).refer("link").name == str(far)
    assert "does not exist" in refused(models, str(far.parent / "y.pth"), tmp_path / "far")
    assert "is not a file" in refused(models, str(far.parent), tmp_path / "far")


def test_links_in_a_circle_and_pipes_are_refused_in_words(models: Path) -> None:
    """Nothing is waited for."""
    models.mkdir()
    (models / "a.pth").symlink_to("b.pth")
    (models / "b.pth").symlink_to("a.pth")
    os.mkfifo(models / "pipe.pth")
    assert "a.pth" in refused(models, "a.pth")
    assert "is not a file" in refused(models, "pipe.pth")


class TestBest:
    def test_is_the_lowest_validation_loss_in_the_folder(self, models: Path) -> None:
        save(models / "anna/a.safetensors", val_loss=2.5)
        save(models / "anna/b.safetensors", val_loss=1.5)
        save(models / "anna/c.safetensors")
        save(models / "rui/a.safetensors", val_loss=0.5)
        assert find(models, "anna/best") == (models / "anna/b.safetensors").resolve()
        assert "anna/b.safetensors and rui/a.safetensors" in refused(models, "best")
        save(models / "top.safetensors", val_loss=9)
        assert find(models, "best") == (models / "top.safetensors").resolve()

    def test_looks_below_a_folder_that_has_none(self, models: Path) -> None:
        save(models / "anna/run/a.safetensors", val_loss=2.5)
        save(models / "anna/run/b.safetensors", val_loss=1.5)
        for name in ("anna/best", "best"):
            assert find(models, name) == (models / "anna/run/b.safetensors").resolve()
        assert find(models, "run/best").name == "b.safetensors"

    def test_is_a_file_of_that_name_where_there_is_one(self, models: Path) -> None:
        save(models / "anna/a.safetensors", val_loss=0.1)
        save(models / "anna/best.safetensors", val_loss=3.0)
        assert find(models, "anna/best").name == "best.safetensors"

    def test_can_not_be_told_without_losses(self, models: Path) -> None:
        lay(models, "anna/a.pth", "anna/b.pth")
        assert "none of these files has a validation loss" in refused(models, "anna/best")
        assert "unknown model" in refused(models, "nobody/best")


class TestModels:
    def test_say_what_a_header_says(self, models: Path) -> None:
        save(models / "x.safetensors", F5)
        save(models / "y.safetensors", TONE, val_loss=0.25)
        (models / "z.pth").write_bytes(b"rubbish")
        known = Models(models)
        assert (known.refer("x").engine, known.refer("x").name) == ("f5", "x.safetensors")
        assert known.refer("y").engine is None
        assert known.refer("y").why_not
        assert known.refer("z").why_not

    def test_look_again_only_at_what_has_changed(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Thousands of job files name the same model: its header is read once, until it is another file."""
        seen: list[str] = []
        real = inspection.inspect

        def inspect(path: Path, folder: Path) -> inspection.Checkpoint:
            seen.append(path.name)
            return real(path, folder)

        monkeypatch.setattr(inspection, "inspect", inspect)
        save(models / "a.safetensors")
        known = Models(models)
        states = [known.refer("a").state for _ in range(100)]
        assert seen == ["a.safetensors"]
        save(models / "a.safetensors", F5)
        assert known.refer("a").engine == "f5"
        assert known.refer("a").state not in states
        assert len(seen) == 2

    def test_see_at_once_what_comes_and_goes(self, models: Path) -> None:
        """A checkpoint dropped just before the job that names it, in a folder that was just made."""
        known = Models(models)
        for number in range(20):
            with pytest.raises(Unresolved):
                known.find(f"voice-{number}")
            save(models / f"new-{number}" / f"voice-{number}.pth")
            assert known.find(f"voice-{number}").is_file()
        (models / "new-3/voice-3.pth").unlink()
        with pytest.raises(Unresolved):
            known.find("voice-3")

    def test_do_not_walk_through_what_has_not_changed(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What settled seconds ago is not listed anew for each job."""
        lay(models, "anna/model.pth")
        for folder in (models, models / "anna"):
            os.utime(folder, ns=(0, 10**18))
        known = Models(models)
        assert known.find("anna").is_file()
        monkeypatch.setattr(inspection, "candidates", lambda _: pytest.fail("listed again"))
        assert known.find("model").is_file()

    def test_have_an_end(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A models/ that is a whole disk does not keep the daemon busy; whole paths work all the same."""
        monkeypatch.setattr("jobs.spec.checkpoint_names.MAX_FOLDERS", 3)
        lay(models, *(f"{number}/m.pth" for number in range(4)))
        assert MAX_FOLDERS == 10_000
        assert "more than 3 folders" in refused(models, "m")
        assert find(models, "2/m.pth").is_file()
