"""A port's process tells which files it runs: those of its modules, and what the system has loaded for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.running.program_files import (
    GONE,
    MAPS,
    NAME,
    known_as,
    mapped_programs,
    module_files,
    read_program_files,
    write_program_files,
)

LINES = """\
5581-5582 r--p 00000000 fe:01 42                                         /usr/bin/python3.12
5582-5583 r-xp 00001000 fe:01 42                                         /usr/bin/python3.12
7f01-7f02 r-xp 00000000 fe:01 43                                         /usr/lib/lib with space.so
7f03-7f04 r-xp 00000000 fe:01 44                                         /tmp/gone.so (deleted)
7f05-7f06 r--p 00000000 fe:01 45                                         /tmp/job/weights.safetensors
7f07-7f08 rwxp 00000000 00:00 0
7f09-7f0a r-xs 00000000 00:01 9                                          /memfd:jit (deleted)
7ffc-7ffd r-xp 00000000 00:00 0                                          [vdso]
""".splitlines()


def test_of_what_is_mapped_only_files_that_are_executed_count() -> None:
    assert mapped_programs(LINES) == ["/usr/bin/python3.12", "/usr/lib/lib with space.so", "/tmp/gone.so (deleted)"]  # noqa: S108


def test_the_files_of_modules_are_told_made_up_names_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "an_object", SimpleNamespace(__file__="/no/module"))
    monkeypatch.setattr(np.linalg, "__file__", "made_up.py")
    assert np.__file__ in module_files()
    assert not {"/no/module", "made_up.py"} & set(module_files())


@pytest.mark.skipif(not MAPS.is_file(), reason="told by Linux alone")
def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_program_files(tmp_path)
    found = read_program_files(tmp_path)
    assert {np.__file__, __file__} < set(found)
    assert any(".so" in Path(file).name for file in found)
    assert found[__file__] == known_as(__file__)


def test_a_file_is_known_by_size_time_and_place(tmp_path: Path) -> None:
    program = tmp_path / "lib.so"
    program.write_text("0")
    before = known_as(str(program))
    os.utime(program, (1, 1))
    assert known_as(str(program)) != before
    assert known_as(f"{program} (deleted)") == GONE


def test_where_the_system_does_not_tell_nothing_is_left(tmp_path: Path) -> None:
    write_program_files(tmp_path, tmp_path / "no_maps")
    assert not (tmp_path / NAME).exists()
    with pytest.raises(FileError, match="no such file"):
        read_program_files(tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"/a": 1}', '{"relative": "1"}', "["])
def test_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(FileError, match=NAME):
        read_program_files(tmp_path)
