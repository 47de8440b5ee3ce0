from pathlib import Path

import pytest

from grok_conformance.harness.formats.files import FileError, parse_json, read_json, whole_file, write_json


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
