from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from grok_conformance.harness.running.own_frames import own_traceback, place_of
from grok_conformance.harness.running.python_runner import import_candidate


def raised_in(path: Path, source: str) -> BaseException:
    path.write_text(source)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is, it is what the file raises
        import_candidate(str(path))
    error = caught.value
    while error.__traceback__ is not None and error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error.__traceback__ = error.__traceback__.tb_next  # this file stands for the harness
    return error


def test_a_syntax_error_is_told_at_its_line_alone(tmp_path: Path) -> None:
    lines = own_traceback(raised_in(tmp_path / "port.py", "x = 1\ndef load(:\n")).splitlines()
    assert lines[0].endswith('port.py", line 2')
    assert lines[-1].startswith("SyntaxError: ")
    assert not [line for line in lines if "importlib" in line or "python_runner" in line]


def test_what_a_port_raises_is_told_from_where_it_was_called_and_with_what_led_to_it(tmp_path: Path) -> None:
    source = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('bad luck') from error\n"
    error = raised_in(tmp_path / "port.py", source)
    told = own_traceback(error)
    assert "ZeroDivisionError: division by zero" in told
    assert told.endswith("ValueError: bad luck\n")
    assert {line.split('"')[1] for line in told.splitlines() if "File" in line} == {str(tmp_path / "port.py")}
    assert place_of(traceback.extract_tb(error.__traceback__)) == " (port.py:4 in <module>)"


def test_what_the_harness_refuses_has_no_place() -> None:
    with pytest.raises(ImportError) as caught:
        import_candidate("there_is_no_such_module")
    frames = [each for each in traceback.extract_tb(caught.value.__traceback__) if each.filename != __file__]
    assert place_of(frames) == ""
