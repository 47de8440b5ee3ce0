"""Golden sets are written whole or not at all, whenever the writer is interrupted, and never replaced unasked."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.audit import check_golden
from grok_conformance.harness.golden.reading import FixtureError, open_golden, read_preset
from grok_conformance.harness.golden.writing import whole_folder, write_golden
from tests.harness.tiny_golden import CONFIG, DECODE, PREFILL, PROVENANCE, QUANTISED, draw_taps, write_tiny

STEPS = ("fsync", "rename", "replace")
"""The calls by which what is written becomes lasting; between two of them the disk does not change its meaning."""


class Killed(BaseException):
    """The end of the process, as far as the writer can tell."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException, *, for_good: bool = False) -> list[str]:
    """Let call number `at` of STEPS raise, with `for_good` every later one and no cleaning up; return the calls."""
    calls: list[str] = []

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == at or (for_good and len(calls) - 1 > at):
                raise error
            return function(*arguments, **keywords)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))
    if for_good:  # a dead process does not clean up
        monkeypatch.setattr(shutil, "rmtree", lambda *_arguments, **_keywords: None)
        monkeypatch.setattr(os, "unlink", lambda *_arguments, **_keywords: None)
    return calls


def write_small(directory: Path, scale: float) -> None:
    """Write a set of one preset whose weights are all `scale`, in the place of any older one."""
    preset = Preset("small", CONFIG, {"w": np.full(3, scale, np.float32)})
    write_golden(directory, suite="1.0.0", provenance=PROVENANCE, presets=[preset], cases=(), replace=("small",))


def scale_of(directory: Path) -> float:
    """Return the scale of a small set, which must be whole."""
    check_golden(directory)
    return float(read_preset(open_golden(directory), "small").weights["w"][0])


@pytest.fixture(scope="module")
def num_steps(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many of STEPS the replacement of a small set takes."""
    directory = tmp_path_factory.mktemp("count") / "v1"
    write_small(directory, 1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        calls = interrupt(monkeypatch, -1, Killed())
        write_small(directory, 2)
    assert {"fsync", "rename", "replace"} == set(calls)
    return len(calls)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Killed()], ids=["full", "killed"])
def test_writer_interrupted_at_any_step_leaves_the_old_set_or_the_new_one(
    tmp_path: Path, num_steps: int, error: BaseException
) -> None:
    directory = tmp_path / "v1"
    left = []
    for at in range(num_steps):
        write_small(directory, 1)
        with pytest.MonkeyPatch.context() as monkeypatch:
            interrupt(monkeypatch, at, error)
            with pytest.raises(FixtureError if isinstance(error, OSError) else Killed):
                write_small(directory, 2)
        left.append(scale_of(directory))
        assert not (tmp_path / ".v1.partial").exists()
    assert left == [1] * (num_steps - 1) + [2]  # the last step, which makes the renames last, is past the point


def test_process_killed_at_any_step_leaves_the_old_set_or_the_new_one(tmp_path: Path, num_steps: int) -> None:
    directory, aside = tmp_path / "v1", tmp_path / ".v1.replaced"
    left = []
    for at in range(num_steps):
        write_small(directory, 1)
        with pytest.MonkeyPatch.context() as monkeypatch:
            interrupt(monkeypatch, at, Killed(), for_good=True)
            with pytest.raises(Killed):
                write_small(directory, 2)
        left.append(scale_of(directory if directory.exists() else aside))
        shutil.rmtree(tmp_path / ".v1.partial", ignore_errors=True)
    assert left == [1] * (num_steps - 1) + [2]


def test_every_folder_is_on_disk_before_the_set_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    renamed: list[set[int]] = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def record_rename(source: Path, target: Path) -> None:
        renamed.append(set(synced))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    write_small(tmp_path / "v1", 1)
    inodes = {path.stat().st_ino for path in (tmp_path / "v1", *(tmp_path / "v1").rglob("*"))}
    assert len(inodes) == 8  # five files in three folders
    assert renamed == [inodes]
    assert tmp_path.stat().st_ino in synced


def test_set_put_aside_by_a_killed_writer_is_put_back_by_the_next(tmp_path: Path) -> None:
    directory = tmp_path / "v1"
    write_small(directory, 1)
    directory.rename(tmp_path / ".v1.replaced")
    with pytest.raises(FixtureError, match="small would go"):
        write_golden(directory, suite="1.0.0", provenance=PROVENANCE, presets=(), cases=())
    assert scale_of(directory) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_first_writing_interrupted_leaves_nothing(tmp_path: Path, num_steps: int) -> None:
    for at in range(num_steps - 2):  # there is nothing to put aside, and the last step is past the point
        with pytest.MonkeyPatch.context() as monkeypatch:
            interrupt(monkeypatch, at, Killed())
            with pytest.raises(Killed):
                write_small(tmp_path / "v1", 1)
        assert not list(tmp_path.iterdir())


# What may be replaced


def taps_digest(directory: Path) -> str:
    return open_golden(directory).manifest.cases[PREFILL.id].taps["call0/logits"].sha256


def test_changed_case_is_refused_and_the_old_set_stays(tmp_path: Path) -> None:
    write_tiny(tmp_path / "v1")
    old = taps_digest(tmp_path / "v1")
    with pytest.raises(FixtureError, match=f"{PREFILL.id} would change; if that is meant: --replace {PREFILL.id}"):
        write_tiny(tmp_path / "v1", seed=1, replace_ids=(DECODE.id,))
    assert taps_digest(tmp_path / "v1") == old
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_case_or_preset_that_would_go_is_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path / "v1")
    with pytest.raises(FixtureError, match="dense would go and 2 more"):
        write_golden(tmp_path / "v1", suite="1.0.0", provenance=PROVENANCE, presets=[QUANTISED], cases=())
    assert open_golden(tmp_path / "v1").manifest.cases


def test_case_is_replaced_when_it_is_named(tmp_path: Path) -> None:
    write_tiny(tmp_path / "v1")
    old = taps_digest(tmp_path / "v1")
    write_tiny(tmp_path / "v1", seed=1, replace_ids=("dense/*",))
    check_golden(tmp_path / "v1")
    assert taps_digest(tmp_path / "v1") != old


def test_equal_set_needs_no_leave(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "v1")
    assert write_tiny(tmp_path / "v1") == first


def test_broken_set_is_replaced_only_as_a_whole(tmp_path: Path) -> None:
    write_tiny(tmp_path / "v1")
    (tmp_path / "v1" / "manifest.json").unlink()
    with pytest.raises(FixtureError, match=r"manifest.json: no such file"):
        write_tiny(tmp_path / "v1")
    write_tiny(tmp_path / "v1", replace_ids=("*",))
    check_golden(tmp_path / "v1")


def test_second_writer_is_told_of_the_first(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "v1") as folder:
        (folder / "file").write_text("first")
        with pytest.raises(FixtureError, match=r"\.v1\.partial: another capture is writing"):
            write_tiny(tmp_path / "v1")
    assert (tmp_path / "v1" / "file").read_text() == "first"


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FixtureError, match=r"cannot be written: Not a directory"):
        write_tiny(tmp_path / "file" / "below" / "v1")


# What may not be stored


def write_one(directory: Path, case: Case, taps: dict[str, Array] | None = None) -> None:
    cases = [(case, draw_taps(case) if taps is None else taps)]
    write_golden(directory, suite="1.0.0", provenance=PROVENANCE, presets=[QUANTISED], cases=cases)


def test_case_with_unsound_inputs_is_refused(tmp_path: Path) -> None:
    case = replace(DECODE, calls=(replace(DECODE.calls[0], tokens=np.array([[5], [99]], np.int32)),))
    with pytest.raises(FixtureError, match=r"preloaded': cannot be stored: call0/tokens\[1, 0\] is 99"):
        write_one(tmp_path / "v1", case)
    assert not list(tmp_path.iterdir())


def test_case_without_one_of_its_taps_is_refused(tmp_path: Path) -> None:
    taps = draw_taps(DECODE)
    del taps["call0/final_norm"]
    with pytest.raises(FixtureError, match="cannot be stored: tap call0/final_norm is missing"):
        write_one(tmp_path / "v1", DECODE, taps)


def test_case_under_the_name_of_another_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FixtureError, match="an id begins with the name of a preset of the set"):
        write_one(tmp_path / "v1", replace(DECODE, id="dense/decode/preloaded"))


def test_preset_that_breaks_its_schema_is_refused(tmp_path: Path) -> None:
    presets = [Preset("any", replace(CONFIG, fprop_dtype="float64"), {})]
    with pytest.raises(FixtureError, match=r"preset any: cannot be stored: .*fprop_dtype must be one of"):
        write_golden(tmp_path / "v1", suite="1.0.0", provenance=PROVENANCE, presets=presets, cases=())


def test_case_of_a_preset_that_is_not_in_the_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FixtureError, match="an id begins with the name of a preset of the set"):
        write_one(tmp_path / "v1", PREFILL)


@pytest.mark.parametrize(
    "case_id", ["../evil/case", "/evil/and/case", "quantised/a", "quantised/a/b\n", "quantised/../x"]
)
def test_id_that_could_leave_the_folder_is_never_written(tmp_path: Path, case_id: str) -> None:
    with pytest.raises(FixtureError, match=r"cannot be stored: .*id must match pattern"):
        write_one(tmp_path / "a" / "v1", replace(DECODE, id=case_id))
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "..", "", "Evil", "evil\n"])
def test_preset_name_that_could_leave_the_folder_is_never_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(FixtureError, match="a name consists of a-z"):
        write_golden(
            tmp_path / "a" / "v1", suite="1.0.0", provenance=PROVENANCE, presets=[Preset(name, CONFIG, {})], cases=()
        )
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_name_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FixtureError, match="presets/quantised: given twice"):
        write_golden(tmp_path / "v1", suite="1.0.0", provenance=PROVENANCE, presets=[QUANTISED, QUANTISED], cases=())


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_tensor_of_a_dtype_that_no_set_holds_is_refused(tmp_path: Path, dtype: type) -> None:
    presets = [Preset("any", CONFIG, {"wide": np.zeros(2, dtype)})]
    with pytest.raises(FileError, match="cannot be stored"):
        write_golden(tmp_path / "v1", suite="1.0.0", provenance=PROVENANCE, presets=presets, cases=())
    assert not list(tmp_path.iterdir())
