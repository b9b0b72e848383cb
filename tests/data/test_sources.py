import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data.sources import Row, read_file
from trimtab.errors import DataError


def rows(file: Path) -> list[Row]:
    return list(read_file(file, file.name))


def test_jsonl_keeps_line_numbers_over_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [(row.fields["a"], row.place) for row in rows(file)] == [
        (1, "a.jsonl:1"),
        (2, "a.jsonl:3"),
    ]


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": "one\u2028two\x85three"}\n', encoding="utf-8")
    assert rows(file)[0].fields["a"] == "one\u2028two\x85three"


def test_a_byte_order_mark_and_crlf_are_no_content(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert [row.fields for row in rows(file)] == [{"a": 1}, {"a": 2}]


def test_json_lists_and_csv_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"a": "x"}, {"a": "y"}]))
    (tmp_path / "a.csv").write_text('a,b\n"x, y",1\nz,2\n')
    assert [row.fields["a"] for row in rows(tmp_path / "a.json")] == ["x", "y"]
    assert [row.fields for row in rows(tmp_path / "a.csv")] == [
        {"a": "x, y", "b": "1"},
        {"a": "z", "b": "2"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no records"),
        ("a.jsonl", b"\n \n", "holds no records"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"a\.jsonl:2: not an object"),
        ("a.jsonl", b'{"a": NaN}\n', r"a\.jsonl:1: not JSON: NaN"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl:2: not UTF-8 at byte 16"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: nested too deeply"),
        ("a.jsonl", b'{"a": "\\ud83d"}\n', r"a\.jsonl:1: holds half of a character"),
        ("a.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", r"a\.jsonl:1: not JSON"),
        ("a.json", b'{"a": 1}', "not a list"),
        ("a.json", b"[{},\n{},\n\n 3]", r"a\.json:4: not an object"),
        ("a.json", b"", r"a\.json:1: not JSON"),
        ("a.json", b"[{},\n\n{]", r"a\.json:3: not JSON"),
        ("a.json", b'[{},\n\n{"a":\nNaN}]', r"a\.json:3: not JSON: NaN"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv:3: more or fewer cells"),
        ("a.csv", b"a,b\n1\n", r"a\.csv:2: more or fewer cells"),
        ("a.csv", b'a,b\n"1\n2",3\n"4\n5"\n', r"a\.csv:4: more or fewer cells"),
        ("a.csv", b'a,b\n1,2\n"3\n4', r"a\.csv:3: unexpected end"),
        ("a.csv", b"a,b\n", "holds no records"),
        ("a.xlsx", b"", "unknown kind of file"),
    ],
)
def test_what_cannot_be_read_names_file_and_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        rows(tmp_path / name)
    assert caught.value.hint


def test_the_items_of_a_json_list_know_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('\n[ {"a": [1, [2]]}, {"a": "]\\n["},\n\n  {"a":\n 3}\n,{"a": 4}]\n')
    assert [row.line for row in rows(file)] == [2, 2, 4, 6]


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5)), min_size=1, max_size=5))
def test_a_json_list_laid_out_over_lines_is_read_whole(
    tmp_path_factory: pytest.TempPathFactory, items: list[dict[str, str]]
) -> None:
    file = tmp_path_factory.mktemp("list") / "a.json"
    file.write_text(json.dumps(items, indent=1))
    starts = [
        n
        for n, line in enumerate(json.dumps(items, indent=1).split("\n"), 1)
        if line.startswith(" {")
    ]
    assert [(row.fields, row.line) for row in rows(file)] == list(zip(items, starts, strict=True))


def test_a_row_of_a_csv_is_named_by_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('\na,b\n"one\r\ntwo",2\n\n3,"four\n\n"\n5,6\n')
    assert [(row.fields, row.line) for row in rows(file)] == [
        ({"a": "one\r\ntwo", "b": "2"}, 3),
        ({"a": "3", "b": "four\n\n"}, 6),
        ({"a": "5", "b": "6"}, 9),
    ]


def test_a_name_that_no_disk_takes_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="File name too long"):
        rows(tmp_path / ("a" * 300 + ".jsonl"))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_is_no_source(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Nobody waits for a pipe that nobody writes into."""
    make(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl: not a file"):
        rows(tmp_path / "a.jsonl")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        rows(tmp_path / "gone.jsonl")
