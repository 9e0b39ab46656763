"""JSON, strictly, with lines and bounds."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from files import json_text
from files.tree import Bounds, Tree, UnreadableText


def trees(text: str, most: int = 1000) -> list[Tree]:
    return [tree for tree, _ in json_text.read(text, Bounds(), most)]


def test_an_object_is_one_job_and_an_array_several() -> None:
    assert [tree.value for tree in trees('{"a": 1}')] == [{"a": 1}]
    assert [tree.value for tree in trees(' [{"a": 1}, {"b": 2}, 3] ')] == [{"a": 1}, {"b": 2}, 3]
    assert trees("[ ]") == []


def test_each_job_of_an_array_is_given_as_it_was_written() -> None:
    text = '[{"a": 1.50},\n  { "b" : [ ] }\n]'
    assert [part for _, part in json_text.read(text, Bounds(), 9)] == ['{"a": 1.50}', '{ "b" : [ ] }']


def test_every_line_is_kept() -> None:
    (first, second) = trees('[\n{"a": 1,\r\n "b": [1,\n2]},\n{"c":\n{"d": 1}}]')
    assert [first.line_of(path) for path in [("a",), ("b",), ("b", 1)]] == [2, 3, 4]
    assert [second.line_of(path) for path in [("c",), ("c", "d")]] == [5, 6]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "[", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', "[1,]", "[1 2]", '{"a" 1}', "{a: 1}",
        "{'a': 1}", '{"a": 01}', '{"a": .5}', '{"a": 1.}', '{"a": +1}', '{"a": NaN}', '{"a": Infinity}',
        '{"a": True}',
        '{"a": tru}',
        '{"a": "x}', '{"a": "\n"}', '{"a": "\\q"}', '{"a": "\\u12"}', '{"a": 1} {"a": 2}', '{"a": 1}]', "// c\n{}",
        '{"a": 1 /* c */}', '{"a": 0x10}', '{1: 2}', "text: hello", "[{}] []",
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(UnreadableText, match="not JSON") as refused:
        trees("\n" + text)
    assert refused.value.maybe_unfinished
    assert refused.value.problem.line in (2, 3)
    with pytest.raises(ValueError, match=r"."):  # proves that the list above holds no JSON
        json.loads(text.replace("NaN", "x").replace("Infinity", "x"))


def test_a_key_given_twice_is_a_problem_of_that_job_alone() -> None:
    good, bad = trees('[{"a": 1},\n{"a": 1,\n"a": 2}]')
    assert not good.problems
    assert [(p.key, p.line) for p in bad.problems] == [("a", 3)]


def test_half_a_surrogate_pair_is_a_problem_and_a_whole_one_a_character() -> None:
    whole, half = trees('[{"a": "\\ud83d\\ude00"}, {"a": "\\ud83d"}]')
    assert whole.value == {"a": "😀"}
    assert [problem.key for problem in half.problems] == ["a"]
    json.dumps(half.value, ensure_ascii=False).encode()


@pytest.mark.parametrize("number", ["1" + "0" * 5000, "1e999", "-1e999", "1." + "0" * 5000])
def test_an_endless_number_is_a_problem(number: str) -> None:
    (tree,) = trees(f'{{"a": {number}}}')
    assert [problem.key for problem in tree.problems] == ["a"]


_MIB = 1 << 20


@pytest.mark.parametrize(
    "text",
    [
        "[" * _MIB, '{"a":' * (_MIB // 5), '{"a":[' + "[" * _MIB, "[" + "1," * (_MIB // 2), "[" + "{}," * (_MIB // 3),
        '{"a":[' + "1," * (_MIB // 2), " " * _MIB, "\n" * _MIB,
        '{"a":"' + "x" * _MIB, '{"a":"' + "\\u0041" * (_MIB // 6) + '"}',
        "{" + '"a":1,' * (_MIB // 6), '{"a":' + "1" * _MIB + "}", '{"a":' + "-" * _MIB,
    ],
    ids=range(13),
)  # fmt: skip
def test_a_mebibyte_made_to_hurt_is_read_or_refused_at_once(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(UnreadableText):  # either is well
        trees(text)
    assert time.process_time() - started < 5


_values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(_values, st.booleans(), st.sampled_from([None, 0, 2]))
@settings(max_examples=150)
def test_agrees_with_the_json_module(written: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps({"a": written}, ensure_ascii=ascii_only, indent=indent)
    (tree,) = trees(text)
    assert tree.value == json.loads(text) == {"a": written}


@given(st.text(alphabet='{}[]",:\\ \n01.e-+tfnux"a', max_size=40))
@settings(max_examples=500)
def test_takes_nothing_that_the_json_module_refuses(text: str) -> None:
    try:
        found = json_text.read("{" + text, Bounds(), 5)
    except UnreadableText:
        return
    if not found[0][0].problems:
        assert json.loads("{" + text) == found[0][0].value
