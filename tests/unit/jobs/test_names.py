"""One injective function makes every name: shown on names that nobody would think of."""

from __future__ import annotations

import os
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.names import (
    MAX_FOLDERS_BYTES,
    RESULT_MARKS,
    folded,
    natural,
    numbered,
    safe_folders,
    safe_name,
)

WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)( *\.|$)", re.IGNORECASE)

# What a folder can hold: any bytes but NUL and `/`, up to 255 of them.
_bytes = st.binary(min_size=1, max_size=255).map(lambda raw: raw.replace(b"\0", b"\n").replace(b"/", b"\\"))
TRICKY = [
    "hello", ".failed", ".cancelled", "~2", "~", "%", "%7E2", "%~", ".", " ", "con", "NUL", "manifest", "ERROR", ":",
    "index.html", "\u00e9", "e\u0301", "\u202e", "\n", "\x1b[2J", "😀", "\udcff", "x" * 100, "\u200d", "COM¹",
]  # fmt: skip
_tricky = st.lists(
    st.sampled_from(TRICKY),
    min_size=1,
    max_size=5,
).map("".join)
names = st.one_of(_bytes.map(os.fsdecode), _tricky, st.text(st.characters(exclude_categories=["Cs"]), min_size=1))


def file_names(name: str) -> list[str]:
    """Every name that the spool makes of a job's."""
    stem = safe_name(name)
    results = [numbered(stem + mark, number) for mark in RESULT_MARKS.values() for number in (1, 2, 99_999)]
    return results + [stem + suffix for suffix in (".yaml", ".json", ".wav", ".subtitle")]


@given(names)
@example("x" * 5000)
@example("\udcff" * 100)
def test_every_name_is_legal_on_linux_and_windows(name: str) -> None:
    for made in file_names(name):
        assert 0 < len(made.encode("utf-8")) <= 255
        assert not set(made) & set('<>:"/\\|?*\0')
        assert all(
            char in "\u200c\u200d" or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in made
        )
        assert made[-1] not in ". "
        assert made[0] != "."
        assert WINDOWS_DEVICE.match(made) is None


@given(names)
def test_a_name_never_looks_like_one_that_the_spool_made(name: str) -> None:
    made = safe_name(name)
    assert not re.search(r"(\.failed|\.cancelled|~\d+)$", made, re.IGNORECASE)
    assert made.lower() not in {"manifest", "error", "index.html"}


@given(st.lists(names, min_size=2, max_size=40, unique_by=os.fsencode))
def test_different_names_stay_different_with_every_mark_and_number(several: list[str]) -> None:
    made = [result for name in several for result in file_names(name)]
    assert len(made) == len(set(made))


@given(_tricky, st.integers(2, 12))
def test_the_next_result_of_a_job_is_not_the_first_of_another(name: str, number: int) -> None:
    for mark in RESULT_MARKS.values():
        assert safe_name(numbered(name + mark, number)) != numbered(safe_name(name) + mark, number)


@given(st.text("abcdefghijklmnopqrstuvwxyzABCÉéãç0123456789-_ ", min_size=1, max_size=80))
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    name = f"olá {name}.v2"
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("hello world", "hello world"),
        ("-rf", "-rf"),
        ("family 👨‍👩‍👧", "family 👨‍👩‍👧"),
        ("100%", "100%25"),
        ("a\nb", "a%0Ab"),
        (os.fsdecode(b"caf\xe9"), "caf%E9"),
        ("manifest", "%6Danifest"),
        ("Error", "%45rror"),
        ("index.html", "%69ndex.html"),
        ("con", "%63on"),
        ("nul .txt", "%6Eul .txt"),
        (".hidden", "%2Ehidden"),
        ("end.", "end%2E"),
        ("end ", "end%20"),
        ("hello.failed", "hello%2Efailed"),
        ("hello~2", "hello%7E2"),
        ("hello.failed~2", "hello.failed%7E2"),
        ("rtl\u202etxt", "rtl%E2%80%AEtxt"),
        ("", "%"),
    ],
)
def test_what_becomes_of(name: str, made: str) -> None:
    assert safe_name(name) == made


@given(st.lists(_tricky, max_size=60))
def test_folders_stay_short_enough_for_a_path(parts: list[str]) -> None:
    made = safe_folders(parts)
    assert len("/".join(made).encode()) <= MAX_FOLDERS_BYTES
    assert all(made)
    if len(made) != len(parts):
        assert made == [safe_name("/".join(parts))]


def test_names_that_are_one_on_other_systems_are_told() -> None:
    assert folded("Olá") == folded("OLÁ") == folded("ola\u0301")
    assert folded("straße") == folded("STRASSE")
    assert folded("a") != folded("b")


@given(st.lists(st.one_of(names, st.text(st.sampled_from("ab019٣-"))), max_size=20))
def test_any_names_have_a_natural_order(several: list[str]) -> None:
    """Digits of any script, and bytes that are no text: never a comparison of a number with a word."""
    keys = [natural(name) for name in several]
    backwards = keys[::-1]
    backwards.sort()
    assert backwards == sorted(keys)


def test_natural_order_counts() -> None:
    assert sorted(["part-10", "part-9", "part-1b", "part-1"], key=natural) == ["part-1", "part-1b", "part-9", "part-10"]
    assert sorted(["9" * 5000, "1"], key=natural) == ["1", "9" * 5000]
