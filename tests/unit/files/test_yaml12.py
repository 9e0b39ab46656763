"""YAML 1.2 core schema, bounded, without a composer."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from files import yaml12
from files.tree import Bounds, Tree, UnreadableText

_BOUNDS = Bounds()

# PyYAML folds lines at these three, and leaves `0E0` without quotes, as is right for 1.1.
_texts = st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=40).filter(
    lambda text: not re.fullmatch(r"[-+.0-9a-fA-Fox]+", text)
)


def trees(text: str, bounds: Bounds = _BOUNDS) -> list[Tree]:
    found = (yaml12.read(piece, bounds) for piece in yaml12.split(text))
    return [tree for tree in found if tree is not None]


def value(text: str) -> Any:
    (tree,) = trees(text)
    assert not tree.problems
    return tree.value


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2026-12-01", "2026-12-01"),
        ("<<", "<<"),
        ("=", "="),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("nULL", "nULL"),
        ("0", 0),
        ("-0", 0),
        ("+12", 12),
        ("0123", 123),
        ("0o17", 15),
        ("0o18", "0o18"),
        ("-0o17", "-0o17"),
        ("0xfF", 255),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5E-1", -0.05),
        ("+1.5e+2", 150.0),
        (".", "."),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        (".inf", math.inf),
        ("+.INF", math.inf),
        ("-.Inf", -math.inf),
        (".iNF", ".iNF"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("! '12'", "12"),
        ("|\n  12\n", "12\n"),
        ("١٢", "١٢"),
    ],
)
def test_plain_values_mean_what_the_core_schema_of_1_2_says(text: str, meaning: object) -> None:
    """The tables of the specification, and what 1.1 made of some of it."""
    found = value(f"key: {text}")["key"]
    assert (found, type(found)) == (meaning, type(meaning))


def test_nan_is_a_number() -> None:
    assert math.isnan(value("a: .nan")["a"])


def test_keys_are_always_text() -> None:
    """JSON and the manifest know no other keys; `no` and `42` are kept as they are written."""
    assert value("no: 1\n42: 2\n~: 3\ntrue: 4\n1.50: 5") == {"no": 1, "42": 2, "~": 3, "true": 4, "1.50": 5}


@pytest.mark.parametrize("text", ["[a, b]: 1", "{a: 1}: 2", "? - a\n: 1", "&x a: 1\n*x : 2"])
def test_a_key_that_is_no_text_is_refused(text: str) -> None:
    with pytest.raises(UnreadableText, match="a key must be text"):
        trees(text)


def test_every_line_is_kept() -> None:
    """Lines of keys and items, also of those inside others and after multi-line values."""
    (tree,) = trees("# c\na: >\n  x\n\n  y\nb:\n  - 1\n  - c: {d: 1,\n        e: 2}\n")
    places: dict[tuple[str | int, ...], int] = {
        (): 2, ("a",): 2, ("b",): 6, ("b", 0): 7, ("b", 1): 8, ("b", 1, "c", "e"): 9, ("b", 1, "c", "zz"): 8,
    }  # fmt: skip
    assert {path: tree.line_of(path) for path in places} == places


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_ending_divides_lines_and_documents(newline: str) -> None:
    first, second = trees(newline.join(["a: 1", "---", "b: |", "  x", "  y", "c: 3"]))
    assert (first.value, second.value) == ({"a": 1}, {"b": "x\ny\n", "c": 3})
    assert second.line_of(("c",)) == 6


def test_unicode_separators_are_ordinary_characters() -> None:
    """Line breaks in YAML 1.1; texts that were pasted from word processors are full of them."""
    (tree,) = trees("a: x\u2028y\u2029z\x85w\nb: 1")
    assert tree.value == {"a": "x\u2028y\u2029z\x85w", "b": 1}
    assert tree.line_of(("b",)) == 2


def test_a_key_given_twice_is_a_problem_with_both_lines() -> None:
    (tree,) = trees("a: 1\nb:\n  - {c: 1, c: [2]}\na: 3\n")
    assert [(p.key, p.line) for p in tree.problems] == [("b[0].c", 3), ("a", 4)]
    assert "lines 1 and 4" in tree.problems[1].message
    assert tree.value == {"a": 1, "b": [{"c": 1}]}


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!binary", "!mine", "!<tag:x,2000:y>", "!!int"])
@pytest.mark.parametrize("place", ["a: {tag} x", "a: [1, {tag} x]", "a: {tag} [x]", "a: {tag} {{x: 1}}", "{tag} a: x"])
def test_tags_are_refused_and_build_nothing(tag: str, place: str) -> None:
    (tree,) = trees(place.format(tag=tag))
    assert [problem.line for problem in tree.problems] == [1]
    assert "is not allowed" in tree.problems[0].message
    json.dumps(tree.value)


def test_a_tag_is_named_with_its_place() -> None:
    (tree,) = trees("a:\n- 1\n- !x 2\n- !y [3]\n")
    assert [(p.key, p.line) for p in tree.problems] == [("a[1]", 3), ("a[2]", 4)]


@pytest.mark.parametrize("number", ["1" + "0" * 5000, "0x" + "f" * 5000, "1e999", "-1e999", "0." + "1" * 5000])
def test_an_endless_number_is_a_problem_not_a_computation(number: str) -> None:
    (tree,) = trees(f"a: {number}")
    assert "too large" in tree.problems[0].message


class TestStreams:
    """Documents are found whatever is in them."""

    @pytest.mark.parametrize(
        ("text", "pieces"),
        [
            ("a: 1", ["a: 1"]),
            ("---\na: 1\n", ["---\na: 1\n"]),
            ("# c\n---\na: 1\n---\nb: 2\n", ["# c\n---\na: 1\n", "---\nb: 2\n"]),
            ("a: 1\n...\nb: 2\n", ["a: 1\n...\n", "b: 2\n"]),
            (
                "%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2",
                ["%YAML 1.2\n---\na: 1\n...\n", "%YAML 1.2\n---\nb: 2"],
            ),
            ("--- {a: 1}\n--- # c\nb: 2", ["--- {a: 1}\n", "--- # c\nb: 2"]),
            ("a: 'x\n---\nb: 2", ["a: 'x\n", "---\nb: 2"]),
            ("a: |\n x\n ---\n y\n----\n", ["a: |\n x\n ---\n y\n----\n"]),
            ("# only\n\n#comments", []),
            ("...\n...\n", []),
            ("", []),
        ],
    )
    def test_is_cut_at_its_markers(self, text: str, pieces: list[str]) -> None:
        assert [piece.text for piece in yaml12.split(text)] == pieces

    def test_lines_count_through_the_whole_file(self) -> None:
        found = trees("# c\na: 1\n---\n\nb: 2\n...\n# d\n---\nc: 3\n")
        assert [tree.line_of((key,)) for tree, key in zip(found, "abc", strict=True)] == [2, 5, 9]

    @pytest.mark.parametrize("text", ["---", "---\n# c\n", "--- # c\n...\n"])
    def test_a_document_of_nothing_is_none(self, text: str) -> None:
        assert [tree.value for tree in trees(text)] in ([], [None])

    @given(st.lists(st.dictionaries(_texts, _texts, min_size=1), max_size=5))
    @settings(max_examples=50)
    def test_each_piece_is_a_file_of_its_own(self, documents: list[dict[str, str]]) -> None:
        """Whatever texts are in a stream, its pieces read alone give the same documents."""
        stream = yaml.safe_dump_all(documents, allow_unicode=True, explicit_start=True)
        pieces = [piece.text for piece in yaml12.split(stream)]
        assert "".join(pieces) == stream
        assert [value(piece) for piece in pieces] == documents


class TestAliases:
    """Allowed, counted, and measured before they are followed."""

    def test_stand_for_the_same_value(self) -> None:
        assert value("a: &x {b: [1]}\nc: *x\nd: [*x, &y 2, *y]") == {
            "a": {"b": [1]},
            "c": {"b": [1]},
            "d": [{"b": [1]}, 2, 2],
        }

    def test_cannot_stand_inside_themselves(self) -> None:
        with pytest.raises(UnreadableText, match="inside its own anchor"):
            trees("a: &x [*x]")

    def test_need_an_anchor(self) -> None:
        with pytest.raises(UnreadableText, match="has no anchor"):
            trees("a: *x")

    def test_do_not_reach_into_another_document(self) -> None:
        with pytest.raises(UnreadableText, match="has no anchor"):
            trees("a: &x 1\n---\nb: *x")

    def test_a_bomb_is_defused_before_it_is_followed(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
        with pytest.raises(UnreadableText, match="expand to more than"):
            trees("\n".join(lines))

    def test_a_long_text_cannot_be_multiplied(self) -> None:
        with pytest.raises(UnreadableText, match="expand to more than"):
            trees(f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 20)}]")

    def test_depth_is_counted_through_them(self) -> None:
        lines = ["a0: &a0 [1]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 40)]
        with pytest.raises(UnreadableText, match="deep"):
            trees("\n".join(lines))

    def test_a_merge_key_is_only_a_key(self) -> None:
        """`<<` belongs to YAML 1.1."""
        assert value("a: &x {b: 1}\nc: {<<: *x}")["c"] == {"<<": {"b": 1}}


_MIB = 1 << 20
_ATTACKS = {
    "dashes": "- " * 40_000,
    "brackets": "[" * _MIB,
    "braces": "{" * _MIB,
    "questions": "? " * (_MIB // 2),
    "a: a: a:": "".join(" " * depth + "a:\n" for depth in range(1400)),
    "list of lists": "[[]," * (_MIB // 4),
    "long key": "a" * _MIB + ": 1",
    "long quoted key": '"' + "a" * _MIB + '": 1',
    "anchors": "".join(f"- &a{i} x\n" for i in range(80_000)),
    "aliases": "- &a x\n" + "- *a\n" * 200_000,
    "flow items": "[" + "a," * (_MIB // 2 - 2) + "]",
    "flow pairs": "[" + "a: b," * (_MIB // 5) + "]",
    "equal keys": "a: b\n" * (_MIB // 5),
    "other keys": "".join(f"a{i}: b\n" for i in range(100_000)),
    "tag directives": "".join(f"%TAG !a{i}! b\n" for i in range(60_000)) + "---\na: b",
    "tag directives later": "a: b\n...\n" + "".join(f"%TAG !a{i}! b\n" for i in range(60_000)) + "---\na: b",
    "tags": "- !a b\n" * (_MIB // 7),
    "documents": "---\n" * (_MIB // 4),
    "ends": "...\n" * (_MIB // 4),
    "comments": "#\n" * (_MIB // 2),
    "spaces": " " * _MIB,
    "tabs": "\t" * _MIB,
    "colons": ": " * (_MIB // 2),
    "blank lines": "a: b" + "\n" * _MIB + " c",
    "escapes": '"' + "\\u0041" * (_MIB // 6) + '"',
    "percents": "%" * _MIB,
    "numbers": "- " + "9" * _MIB,
    "float-like": "- " + "1." * (_MIB // 2),
}


@pytest.mark.parametrize("name", _ATTACKS)
def test_a_mebibyte_made_to_hurt_is_read_or_refused_at_once(name: str) -> None:
    """No crash, no recursion, no quadratic time: 5 s is far more than any takes, far less than the bad ones took."""
    started = time.process_time()
    most = 1000
    try:
        for count, piece in enumerate(yaml12.split(_ATTACKS[name])):
            if count == most:
                break
            yaml12.read(piece, Bounds())
    except UnreadableText:
        pass  # either is well
    assert time.process_time() - started < 5


_json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=20,
)


@given(_json_values)
@settings(max_examples=150)
def test_reads_what_a_yaml_writer_writes(written: object) -> None:
    """PyYAML quotes whatever 1.1 could misread, so its output means the same in 1.2."""
    text = yaml.safe_dump({"a": written}, allow_unicode=True)
    assert value(text) == {"a": yaml.safe_load(text)["a"]} == {"a": written}


@given(st.text(alphabet="ab:-#&*!|>'\"%@`{}[],?~0 \n\t.\\", max_size=60))
@settings(max_examples=300)
def test_agrees_with_pyyaml_on_what_is_yaml(text: str) -> None:
    """Of one document with plain values, ours is what PyYAML's base loader reads; nobody else's errors come out."""
    try:
        ours = trees(text)
    except UnreadableText:
        return
    if len(ours) == 1 and not ours[0].problems:
        try:
            theirs = [found for found in yaml.load_all(text, Loader=yaml.BaseLoader) if found]
        except yaml.YAMLError:  # its parser in Python refuses some tabs that libyaml and the specification take
            return
        assert len(theirs) <= 1
        if theirs:
            assert _as_text(theirs[0]) == _as_text(ours[0].value)


def _as_text(found: Any) -> Any:
    """Structure and keys only: how values are read differs on purpose."""
    if isinstance(found, dict):
        return {str(key): _as_text(item) for key, item in found.items()}
    if isinstance(found, list):
        return [_as_text(item) for item in found]
    return ""


def test_the_pure_python_parser_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without libyaml."""
    text = "a: no\nb: [1, 'x', {c: 0o17}]\nd: |\n  x\n---\ne: &x 1\nf: *x\n"
    with_c = [tree.value for tree in trees(text)]
    monkeypatch.setattr(yaml12, "_Loader", yaml.SafeLoader)
    assert [tree.value for tree in trees(text)] == with_c
    with pytest.raises(UnreadableText, match="deep"):
        trees("- " * 40_000)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("text: News: at ten\n", "put text with a colon in quotes"),
        ("text: He says\n\tmore: x\n", "indent with spaces, not with tabs"),
        ("\ttext: Hello\n", "indent with spaces, not with tabs"),
        ("text: @home\n", "text can't start with `@`; put it in quotes"),
        ('text: "open\nlanguage: en\n', "a quotation mark is not closed"),
        ('text: "He said "hi" to me"\n', "quotation marks inside quotes"),
        ("segments: [a\n", r"a list in \[ \] lacks a comma or the closing"),
        ("settings: {speed: 1\n", "a mapping in { } lacks a comma or the closing }"),
        ("text: Hello\nthat goes on\nlanguage: en\n", "a key lacks its colon"),
        ("segments:\n  - text: a\n - text: b\n", "check the indentation"),
    ],
)
def test_the_commonest_slips_are_told_in_plain_words(text: str, advice: str) -> None:
    with pytest.raises(UnreadableText, match=f"this is not YAML: .*{advice}"):
        trees(text)
