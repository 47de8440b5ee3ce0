"""A verdict is taken over only while all that it depends on is as it was; anything else in its place is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from grok_conformance.harness.formats.files import FileError, plain
from grok_conformance.harness.judging.reused import EarlierRun, reused_from
from grok_conformance.harness.judging.told import told_of, without_honest
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.running.program_files import known_as
from grok_conformance.harness.sessions.kept_verdicts import (
    LASTS,
    Kept,
    forget,
    is_full_pass,
    path_of,
    read_kept,
    read_verdict,
    remove_old,
    speaks_against,
    why_not,
    write_kept,
)
from tests.harness.report.verdicts import CRASHED, FAILING, PASSING, verdict

NOW = datetime(2026, 11, 28, 14, 3, tzinfo=UTC)
RUN = EarlierRun(NOW.isoformat(), 123, "d" * 64)
ON = {"the golden set": "a", "an option": "b"}


def kept_at(path: Path, found: CandidateVerdict | None = None, *programs: Path) -> tuple[Kept, bytes]:
    """Keep a verdict and read it again."""
    known = {str(each): known_as(str(each)) for each in programs}
    write_kept(path, told_of(found or verdict(PASSING)).found, RUN, ON, known)
    read = read_kept(path)
    assert read is not None
    return read


def test_a_verdict_is_read_as_it_was_found(tmp_path: Path) -> None:
    path = path_of(tmp_path / "new", "port", "0" * 64)
    found = verdict(PASSING, replace(PASSING, seconds=None, routing=None))
    assert read_verdict(path, *kept_at(path, found)) == reused_from(RUN, without_honest(found))


def test_nothing_is_no_verdict(tmp_path: Path) -> None:
    assert read_kept(tmp_path / "absent") is None


def test_one_that_is_of_the_same_is_taken_over(tmp_path: Path) -> None:
    kept, _ = kept_at(tmp_path / "a")
    assert why_not(kept, ON, None, NOW) == why_not(kept, ON, 123, NOW + LASTS - timedelta(seconds=1)) == ""


@pytest.mark.parametrize(
    ("on", "seed", "later", "reason"),
    [
        (ON, None, LASTS, "its verdict is not of the last 12 hours"),
        (ON, None, timedelta(seconds=-1), "its verdict is not of the last 12 hours"),
        (ON, 124, timedelta(0), "its verdict is of --seed 123"),
        ({**ON, "the golden set": "c"}, None, timedelta(0), "the golden set has changed"),
        ({**ON, "another": "c"}, None, timedelta(0), "another has changed"),
        ({"an option": "b"}, None, timedelta(0), "the golden set has changed"),
    ],
)
def test_one_of_something_else_is_not(
    on: dict[str, str], seed: int | None, later: timedelta, reason: str, tmp_path: Path
) -> None:
    kept, _ = kept_at(tmp_path / "a")
    assert why_not(kept, on, seed, NOW + later) == reason


def test_a_program_that_was_loaded_must_be_as_it_was(tmp_path: Path) -> None:
    program = tmp_path / "lib.so"
    program.write_text("0")
    kept, _ = kept_at(tmp_path / "a", None, program)
    assert why_not(kept, ON, None, NOW) == ""
    program.write_text("01")
    assert why_not(kept, ON, None, NOW) == f"{program}: changed since it was loaded"
    with pytest.raises(FileError, match=r"while the candidates ran, .*lib\.so: changed since it was loaded"):
        write_kept(tmp_path / "b", told_of(verdict(PASSING)).found, RUN, ON, kept.programs)
    program.unlink()
    assert why_not(kept, ON, None, NOW) == f"{program}: gone since it was loaded"
    with pytest.raises(FileError, match="gone since it was loaded"):
        kept_at(tmp_path / "b", None, program)


def test_only_a_pass_of_everything_is_kept() -> None:
    assert is_full_pass(verdict(PASSING))
    for case in (FAILING, CRASHED, *(replace(PASSING, status=each) for each in ("waived", "quirk", "inconclusive"))):
        assert not is_full_pass(verdict(PASSING, case)), case.status
    left_open = replace(PASSING, status="inconclusive", waived=("left open",))
    assert verdict(PASSING, left_open).status == "pass"
    assert not is_full_pass(verdict(PASSING, left_open))
    assert not is_full_pass(replace(verdict(PASSING), narrowed="moe.norm"))
    assert not is_full_pass(reused_from(RUN, verdict(PASSING)))
    assert not is_full_pass(verdict())


def test_whatever_is_no_such_pass_speaks_against_earlier_ones_but_a_part_that_passes() -> None:
    assert speaks_against(verdict(PASSING, FAILING))
    assert speaks_against(replace(verdict(FAILING), narrowed="moe.norm"))
    assert speaks_against(verdict(PASSING, replace(PASSING, status="inconclusive", waived=("left open",))))
    assert not speaks_against(verdict(PASSING))
    assert not speaks_against(replace(verdict(PASSING), narrowed="moe.norm"))
    assert not speaks_against(reused_from(RUN, verdict(PASSING)))


def head_of(**changed: object) -> bytes:
    """Return a first line that is as it should be, but for what is changed; the second is `{}`."""
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    head = {"format": 1, "run": plain(RUN), "depends_on": ON, "programs": {}, "sha256": digest}
    return json.dumps(head | changed).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"{}\n{}\n",
        b"[" * 100_000,
        head_of(format=2) + b"\n{}\n",
        head_of(sha256="0" * 64) + b"\n{}\n",
        head_of(programs={"/lib.so": 1}) + b"\n{}\n",
        head_of(run={**plain(RUN), "date": "yesterday"}) + b"\n{}\n",
        head_of(run={**plain(RUN), "date": "0001-01-01T00:00:00+23:59"}) + b"\n{}\n",
        head_of(run={**plain(RUN), "seed": "1"}) + b"\n{}\n",
        head_of(),
    ],
)
def test_something_else_is_refused_in_one_line(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(FileError, match="a: not the verdict of an earlier run"):
        read_kept(tmp_path / "a")


def test_a_verdict_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(head_of() + b"\n{}\n")
    read = read_kept(tmp_path / "a")
    assert read is not None
    with pytest.raises(FileError, match="not the verdict of an earlier run"):
        read_verdict(tmp_path / "a", *read)


@pytest.mark.parametrize("found", [verdict(FAILING), replace(verdict(PASSING), name="another")])
def test_a_verdict_that_does_not_pass_or_of_another_candidate_is_refused(
    found: CandidateVerdict, tmp_path: Path
) -> None:
    path = path_of(tmp_path, "port", "0" * 64)
    with pytest.raises(FileError, match="no pass, or another candidate's"):
        read_verdict(path, *kept_at(path, found))


def test_a_file_cut_short_is_refused_wherever(tmp_path: Path) -> None:
    kept_at(tmp_path / "a")
    text = (tmp_path / "a").read_bytes()
    for size in (1, len(text) // 2, len(text) - 2):
        (tmp_path / "a").write_bytes(text[:size])
        with pytest.raises(FileError, match="not the verdict of an earlier run"):
            read_kept(tmp_path / "a")


def test_a_pipe_or_a_folder_in_its_place_is_neither_read_nor_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileError, match="not the verdict of an earlier run"):
            read_kept(tmp_path / name)
        with pytest.raises(FileError, match="no regular file"):
            kept_at(tmp_path / name)


def test_there_is_one_file_for_a_candidate_and_what_it_is_asked(tmp_path: Path) -> None:
    for name, asked in (("port", "0" * 64), ("port", "0" * 64), ("port", "1" * 64), ("other", "0" * 64)):
        kept_at(path_of(tmp_path, name, asked))
    assert len([*tmp_path.iterdir()]) == 3


def test_what_has_expired_is_removed_and_what_a_killed_run_left(tmp_path: Path) -> None:
    old, new = path_of(tmp_path, "port", "0" * 64), path_of(tmp_path, "port", "1" * 64)
    partial = tmp_path / f".{old.name}.abc.partial"
    for path in (old, new, partial, tmp_path / "mine"):
        path.touch()
        os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    os.utime(new, (NOW.timestamp() + 60, NOW.timestamp() + 60))
    remove_old(tmp_path, NOW + LASTS + timedelta(seconds=1))
    assert {path.name for path in tmp_path.iterdir()} == {new.name, "mine"}
    remove_old(tmp_path / "absent", NOW)


def test_all_verdicts_on_a_candidate_are_forgotten_and_no_other_s(tmp_path: Path) -> None:
    for name, asked in (("port", "0"), ("port", "1"), ("port_2", "0")):
        kept_at(path_of(tmp_path, name, asked))
    forget(tmp_path, ["port"])
    assert [path.name for path in tmp_path.iterdir()] == [path_of(tmp_path, "port_2", "0").name]
