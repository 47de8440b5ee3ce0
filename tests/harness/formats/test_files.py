import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grok_conformance.harness.formats.files import (
    FileError,
    check_writable,
    parse_json,
    read_json,
    whole_file,
    write_json,
)


def test_whole_file_leaves_the_old_content_and_nothing_else_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_text("old")

    def write_half() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_whole_file_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    path = tmp_path / "value.json"
    path.symlink_to(outside)
    write_json(path, 1)
    assert outside.read_text() == "untouched"
    assert not path.is_symlink()


def test_write_json_then_read_json_gives_the_value_back(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"é": "×"}}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_write_json_refuses_numbers_that_json_does_not_have(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ', "Expecting value"),
        (b'"\xff"', "utf-8"),
    ],
)
def test_parse_json_refuses_what_is_not_strict_json(text: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_json(text)


def test_read_json_names_the_file_that_is_malformed_absent_or_too_large(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(FileError, match=r"value\.json: cannot be read: No such file"):
        read_json(path)
    path.write_text("[1")
    with pytest.raises(FileError, match=r"value\.json: not valid JSON"):
        read_json(path)
    with pytest.raises(FileError, match=r"value\.json: larger than 1 bytes"):
        read_json(path, max_bytes=1)


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "null"
    path.symlink_to("/dev/null")
    write_json(path, 1)
    assert path.is_symlink()
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(path.read_text)
        write_json(path, {"a": 1})
        assert json.loads(read.result(timeout=10)) == {"a": 1}
    assert path.is_fifo()


def test_a_hyphen_is_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_json(Path("-"), [1])
    assert json.loads(capfdbinary.readouterr().out) == [1]


def test_a_file_keeps_its_mode_and_a_new_one_has_that_of_the_umask(tmp_path: Path) -> None:
    kept, new = tmp_path / "kept.json", tmp_path / "new.json"
    kept.write_text("old")
    kept.chmod(0o640)
    umask = os.umask(0o022)
    try:
        write_json(kept, 1)
        write_json(new, 1)
    finally:
        os.umask(umask)
    assert [path.stat().st_mode & 0o777 for path in (kept, new)] == [0o640, 0o644]


def test_a_name_of_255_characters_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    write_json(path, 1)
    assert read_json(path) == 1


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("folder", "a folder: give the name of a file"),
        ("none/x.json", "is no folder"),
        ("n" * 5000, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=problem) as caught:
        check_writable(tmp_path / name)
    assert len(str(caught.value)) <= 500
    check_writable(tmp_path / "new.json")
    check_writable(Path("-"))
