"""vocab.txt: how its symbols are read, which file belongs to a model, and what is said when none fits."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from engines.checkpoints import f5_vocabulary
from engines.checkpoints.f5_vocabulary import LIBRARY_SYMBOLS, VocabularyFolder, find, read
from engines.checkpoints.inspection import inspect, survey
from tests import headers

with_library = pytest.mark.skipif(find_spec("f5_tts") is None, reason="f5-tts is not installed (`make test-quick`)")

SYMBOLS = (" ", "a", "ã", "ni3")


def written(path: Path, symbols: Sequence[str], end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{symbol}{end}" for symbol in symbols).encode())
    return path


def many(count: int) -> list[str]:
    return [" ", *map(str, range(count - 1))]


def model(folder: Path, symbols: int, name: str = "model_last") -> Path:
    return headers.save(folder / f"{name}.safetensors", headers.flow(symbols=symbols))


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        " \na\nã\nni3\n", " \na\nã\nni3", " \r\na\r\nã\r\nni3\r\n", " \ra\rã\rni3\r", "\ufeff \na\nã\nni3\n",
        "\na\nã\nni3\n",
    ],
)  # fmt: skip
def test_a_line_is_a_symbol(tmp_path: Path, content: str) -> None:
    """However lines end, with or without a byte order mark; a first line that lost its space is still the space."""
    path = tmp_path / "vocab.txt"
    path.write_bytes(content.encode())
    vocabulary = read(path)
    assert (vocabulary.symbols, vocabulary.size) == (SYMBOLS, 4)
    assert vocabulary.char_map(4) == {" ": 0, "a": 1, "ã": 2, "ni3": 3}
    assert [symbols for symbols in range(10) if vocabulary.fits(symbols)] == [4]


def test_what_python_takes_for_line_breaks_are_symbols(tmp_path: Path) -> None:
    """Form feed, next line and line separator stand in real vocabularies."""
    assert read(written(tmp_path / "vocab.txt", [" ", "\x0c", "\x85", "\u2028"])).size == 4


def test_empty_lines_at_the_end_count_or_not(tmp_path: Path) -> None:
    """The trainer counts them as one symbol, and an editor may have added them since."""
    vocabulary = read(written(tmp_path / "vocab.txt", [*SYMBOLS, "", "", ""]))
    assert vocabulary.size == 4
    assert [symbols for symbols in range(10) if vocabulary.fits(symbols)] == [4, 5, 6, 7]
    assert vocabulary.char_map(4) == {" ": 0, "a": 1, "ã": 2, "ni3": 3}


def test_an_empty_line_in_between_is_a_symbol(tmp_path: Path) -> None:
    """Or all that follow it would be another."""
    assert read(written(tmp_path / "vocab.txt", [" ", "a", "", "b"])).char_map(4)["b"] == 3


def test_a_symbol_that_is_there_twice_has_the_later_number(tmp_path: Path) -> None:
    """As the trainer's table has it, which counts it once; no number is beyond the model's."""
    vocabulary = read(written(tmp_path / "vocab.txt", [" ", "a", "a", "b"]))
    assert [symbols for symbols in range(10) if vocabulary.fits(symbols)] == [3, 4]
    assert vocabulary.char_map(4) == {" ": 0, "a": 2, "b": 3}
    assert vocabulary.char_map(3) == {" ": 0, "a": 2}


@with_library
def test_it_counts_as_the_librarys_trainer_does() -> None:
    """On the library's own file, whose symbols are all different."""
    file = headers.library_folder() / "infer/examples/vocab.txt"
    with file.open(encoding="utf-8") as lines:
        known = {line[:-1]: number for number, line in enumerate(lines)}
    assert read(file).char_map(LIBRARY_SYMBOLS) == known
    assert f5_vocabulary.library() == file


# --- which one belongs to a model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vocab.txt", "model_last.vocab.txt", "vocab_japanese.txt"])
def test_the_one_beside_the_model_is_used(tmp_path: Path, name: str) -> None:
    """By custom it has one of these names; what is found by its size alone is mentioned."""
    own = written(tmp_path / name, many(88))
    one = inspect(model(tmp_path, 88))
    assert one.loads, one.why_not
    assert one.vocab == own
    assert len(one.warnings) == (name == "vocab_japanese.txt")


def test_a_models_own_comes_before_that_of_its_folder(tmp_path: Path) -> None:
    """And is not another model's."""
    written(tmp_path / "vocab.txt", many(88))
    written(tmp_path / "b.vocab.txt", many(99))
    assert inspect(model(tmp_path, 99, "b")).vocab == tmp_path / "b.vocab.txt"
    assert inspect(model(tmp_path, 88, "a")).vocab == tmp_path / "vocab.txt"
    assert inspect(model(tmp_path, 99, "a")).loads is False


@with_library
def test_without_any_the_librarys_own_is_used_where_it_fits(tmp_path: Path) -> None:
    """And that is said: nearly every fine-tuned model has it, but not every one."""
    one = inspect(model(tmp_path, LIBRARY_SYMBOLS))
    assert one.loads, one.why_not
    assert one.vocab == headers.library_folder() / "infer/examples/vocab.txt"
    assert one.warnings == (
        "there is no vocab.txt next to the model; used f5-tts's own, which has as many symbols as the model",
    )


def test_where_the_library_is_not_installed_the_model_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine will bring it."""
    monkeypatch.setattr(f5_vocabulary, "find_spec", lambda _name: None)
    written(tmp_path / "vocab.txt", many(LIBRARY_SYMBOLS))
    one = inspect(model(tmp_path / "ana", LIBRARY_SYMBOLS))
    assert one.loads, one.why_not
    assert one.vocab is None


@with_library
@pytest.mark.parametrize("place", ["vocab.txt", "data/ana_pinyin/vocab.txt"])
def test_two_that_fit_are_not_chosen_between(tmp_path: Path, place: str) -> None:
    """A training run has left one with as many symbols as the library's own, and others in it."""
    other = written(tmp_path / place, many(LIBRARY_SYMBOLS))
    one = inspect(model(tmp_path / ("ckpts/ana" if "data" in place else "ana"), LIBRARY_SYMBOLS))
    assert one.loads is False
    assert one.vocab is None
    assert place in one.cure
    other.write_bytes((headers.library_folder() / "infer/examples/vocab.txt").read_bytes())
    assert inspect(one.path).loads


# --- when none fits --------------------------------------------------------------------------------------------------


def test_a_mismatch_has_both_numbers(tmp_path: Path) -> None:
    """And says where it was looked for, when it was found nowhere."""
    written(tmp_path / "vocab.txt", many(2000))
    one = inspect(model(tmp_path, 88))
    assert one.why_not == "vocab.txt next to it has 2000 symbols, but the model was trained with 88."
    for place in ("folder above", "data/*/", "models/", "f5-tts's own has 2545"):
        assert place in one.cure


def test_none_at_all_has_the_number(tmp_path: Path) -> None:
    one = inspect(model(tmp_path, 88))
    assert one.why_not == "There is no vocab.txt next to it, and it was trained with 88 symbols."


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("models/runs/vocab.txt", "models/runs/vocab.txt"),
        ("models/data/ana_char/vocab.txt", "models/data/ana_char/vocab.txt"),
        ("models/rui/deep/vocab.txt", "models/rui/deep/vocab.txt"),
        ("models/rui/vocab_pt.txt", "models/rui/vocab_pt.txt"),
        ("data/ana_char/vocab.txt", "../../../data/ana_char/vocab.txt"),
        ("models/runs/ana/vocab_pt.txt", "models/runs/ana/vocab_pt.txt"),
    ],
)
def test_one_that_fits_elsewhere_is_named_and_not_used(tmp_path: Path, place: str, shown: str) -> None:
    """Two languages may have as many symbols."""
    written(tmp_path / "models/runs/ana/vocab.txt", many(2000))
    written(tmp_path / place, many(88))
    path = model(tmp_path / "models/runs/ana", 88)
    for one in (inspect(path, tmp_path / "models"), *survey(tmp_path / "models")):
        assert one.loads is False
        assert one.vocab == tmp_path / "models/runs/ana/vocab.txt"
        assert "2000 symbols" in one.why_not
        assert one.cure.startswith(f"{shown} has as many: copy it next to the model")


def test_the_librarys_own_is_named_where_another_lies_beside(tmp_path: Path) -> None:
    """What somebody put beside the model is not passed over in silence."""
    written(tmp_path / "vocab.txt", many(2000))
    one = inspect(model(tmp_path, LIBRARY_SYMBOLS))
    assert one.loads is False
    assert one.cure.startswith("f5-tts's own (infer/examples/vocab.txt) has as many")


def test_a_lost_space_is_recognised(tmp_path: Path) -> None:
    """Whoever strips a vocabulary takes away its first symbol."""
    written(tmp_path / "vocab.txt", many(88)[1:])
    one = inspect(model(tmp_path, 88))
    assert "has 87 symbols, but the model was trained with 88" in one.why_not
    assert one.cure == "Its first line, a single space, is missing: add it."


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe \0\n\0", "can't be read."),
        (b"a\n" * (3 << 20), "can't be read: it is larger than 1,048,576 bytes."),
        (b"a\n" * 110_000, "can't be read: it has more than 100,000 lines."),
    ],
)
def test_what_can_not_be_read_is_said(tmp_path: Path, content: bytes, why: str) -> None:
    """Another encoding; more than any vocabulary has."""
    (tmp_path / "vocab.txt").write_bytes(content)
    one = inspect(model(tmp_path, 88))
    assert one.why_not == f"vocab.txt next to it {why}"
    assert "UTF-8" in one.cure


def test_names_can_not_steer_a_terminal(tmp_path: Path) -> None:
    """Folders are strangers' too."""
    written(tmp_path / "models/x\x1b[2J\u202e/vocab.txt", many(88))
    one = inspect(model(tmp_path / "models/ana", 88), tmp_path / "models")
    assert one.cure.isprintable()
    assert r"x\x1b[2J\u202e" in one.cure


def test_the_search_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of models may be a whole disk."""
    monkeypatch.setattr(f5_vocabulary, "_MAX_FILES", 3)
    for number in range(9):
        written(tmp_path / f"models/{number}/vocab.txt", many(10 + number))
    folder = VocabularyFolder(tmp_path / "models")
    assert len(folder.all) == 3
    assert find(tmp_path / "models/m.pt", 18, folder).fault


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    """Nobody may ever write to one."""
    import os

    os.mkfifo(tmp_path / "vocab.txt")
    assert inspect(model(tmp_path, 88)).loads is False
