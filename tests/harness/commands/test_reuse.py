"""A second run takes verdicts over, says so, and judges whatever is not as it was."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands import reuse, run
from grok_conformance.harness.commands.reuse import VERDICTS, begin, keep, taken_over
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.judging.told import told_of
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.report.files import read_report
from grok_conformance.harness.running.program_files import MAPS, known_as
from grok_conformance.harness.sessions import dependencies
from grok_conformance.harness.sessions.kept_verdicts import path_of, write_kept
from tests.harness.sessions.test_dependencies import edit, edit_unseen

CASE = "stress/prefill/saturated_cap.float32"
NAME = "numpy_float64"
WORDS = ("--candidate", NAME, "--case", CASE)

pytestmark = pytest.mark.skipif(not MAPS.is_file(), reason="verdicts are reused where the system tells what is loaded")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder in which a run has been made, with stand-ins for the package and what is installed."""
    folder = tmp_path_factory.mktemp("kept")
    for name in ("package/harness/judge.py", "package/candidates/port.py", "site-packages/engine/engine.so"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("0123")
    with pytest.MonkeyPatch.context() as patch:
        in_folder(folder, patch)
        assert main(["run", *WORDS, "--fresh", "--json", "run.json"]) == 0
    yield folder
    shutil.rmtree(folder)


def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(reuse, "unknowable", lambda: "")
    monkeypatch.setattr(dependencies, "PACKAGE", folder / "package")
    monkeypatch.setattr(dependencies, "import_places", lambda: [folder / "site-packages"])


@pytest.fixture
def folder(kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Path]:
    """Return the folder as the run has left it, whatever other tests did with its verdicts."""
    in_folder(kept, monkeypatch)
    shutil.copytree(VERDICTS, "as_kept")
    capsys.readouterr()
    yield kept
    shutil.rmtree(VERDICTS, ignore_errors=True)
    shutil.move("as_kept", VERDICTS)


def options_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.add_options(parser)
    return parser.parse_args([*WORDS, "--reuse", *words])


def is_reused(*words: str) -> bool:
    """Return whether a run with these options would take the verdict over."""
    options = options_of(*words)
    return NAME in taken_over(begin(options), [NAME], options)


def kept_file() -> Path:
    (path,) = VERDICTS.iterdir()
    return path


def test_a_second_run_starts_no_candidate_and_says_so_everywhere(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grok_conformance.harness.sessions.run.run_candidates", pytest.fail)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    reports = ["--json", "again.json", "--junit", "run.xml", "--html", "run.html"]
    assert main(["run", *WORDS, "--reuse", *reports]) == 0
    first, second = (read_report(folder / name)["candidates"][0] for name in ("run.json", "again.json"))
    run_told = second.pop("reused")
    assert {**second, "summary": first["summary"]} == first
    assert run_told["digest"] == first["digest"]
    told = f"reused from {datetime.fromisoformat(run_told['date']):%Y-%m-%d %H:%M} UTC with --seed {run_told['seed']}"
    said = " ".join(capsys.readouterr().out.split())
    assert f"{NAME} {first['version']}: pass (caches); {told}: nothing that it depends on has changed; 3 of 3" in said
    assert "--fresh judges again" in said
    for name in ("run.html", "summary.md"):
        assert told in (folder / name).read_text()
    (found,) = ET.parse(folder / "run.xml").getroot().iter("property")  # noqa: S314 - our own report
    assert (found.get("name"), found.get("value")) == ("reused", told.replace("reused from", "judged"))


def test_a_run_that_does_not_ask_for_it_judges(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept_file().read_bytes()
    assert main(["run", *WORDS, "--quiet"]) == 0
    assert "reused" not in capsys.readouterr().out
    assert kept_file().read_bytes() == before
    assert main(["run", *WORDS, "--quiet", "--fresh"]) == 0
    assert "reused" not in capsys.readouterr().out
    assert kept_file().read_bytes() != before
    assert folder


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("package/candidates/port.py", "the harness or a candidate has changed"),
        ("package/harness/judge.py", "the harness or a candidate has changed"),
        ("site-packages/engine/engine.so", "an installed package has changed"),
    ],
)
def test_a_changed_file_is_judged_again(
    name: str, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_reused()
    edit(folder / name)
    assert not is_reused()
    assert capsys.readouterr().err == f"{NAME}: judged again: {reason}\n"
    edit(folder / name)  # a file that was read is what it was, one that is known by its times is not
    assert is_reused() == name.startswith("package")
    if not is_reused():
        assert main(["run", *WORDS, "--fresh", "--quiet"]) == 0
        shutil.rmtree("as_kept")
        shutil.copytree(VERDICTS, "as_kept")


def test_a_changed_golden_tensor_is_judged_again_and_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    golden = tmp_path / "golden"
    shutil.copytree(GOLDEN, golden)
    words = ("--golden", str(golden))
    assert not is_reused(*words)
    assert main(["run", *WORDS, *words, "--fresh", "--quiet"]) == 0
    assert is_reused(*words)
    edit_unseen(golden / "cases" / CASE / "taps.safetensors")
    capsys.readouterr()
    assert main(["run", *WORDS, *words, "--reuse"]) == 2
    said = capsys.readouterr().err
    assert f"{NAME}: judged again: the golden set has changed" in said
    assert "was altered" in said
    assert folder


@pytest.mark.parametrize("words", [["--dtype", "float32"], ["--time-limit", "99"], ["--case", "ties/*"]])
def test_another_option_is_judged(words: list[str], folder: Path) -> None:
    assert is_reused("--quiet", "--strict")
    assert not is_reused(*words)
    assert folder


def test_another_variable_is_judged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHON_MY_SWITCH", "1")
    assert not is_reused()
    assert "an environment variable has changed" in capsys.readouterr().err
    monkeypatch.delenv("PYTHON_MY_SWITCH")
    assert is_reused()
    assert folder


def test_another_seed_is_judged(folder: Path) -> None:
    seed = json.loads(kept_file().read_bytes().partition(b"\n")[0])["run"]["seed"]
    assert is_reused("--seed", str(seed))
    assert not is_reused("--seed", str(seed + 1))
    assert folder


def test_a_verdict_of_the_day_before_is_judged_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, _, body = kept_file().read_bytes().partition(b"\n")
    told = json.loads(head)
    told["run"]["date"] = (datetime.fromisoformat(told["run"]["date"]) - timedelta(hours=24)).isoformat()
    kept_file().write_bytes(json.dumps(told).encode() + b"\n" + body)
    assert not is_reused()
    assert "its verdict is not of the last 12 hours" in capsys.readouterr().err
    assert folder


def test_a_candidate_that_fails_since_is_passed_no_more(folder: Path) -> None:
    assert is_reused()
    assert main(["run", *WORDS, "--time-limit", "0.001", "--quiet"]) == 1
    assert not VERDICTS.exists() or not [*VERDICTS.iterdir()]
    assert main(["run", *WORDS, "--time-limit", "0.001", "--quiet", "--fresh"]) == 1
    assert not is_reused()
    assert not is_reused("--time-limit", "0.001")
    assert folder


def test_a_damaged_file_is_a_line_and_judged_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = kept_file()
    path.write_bytes(path.read_bytes()[:-100])
    assert not is_reused()
    said = capsys.readouterr().err
    assert said == f"{NAME}: judged again: {path}: not the verdict of an earlier run (another format, or cut short)\n"
    assert folder


def test_the_rest_of_a_run_is_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = folder / "port.py"
    port.write_text("from grok_conformance.candidates.numpy_float64 import INFO, load\n")
    assert main(["run", "--candidate", str(port), *WORDS, "--reuse", "--quiet"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{port} ")
    assert "reused" not in first
    assert second.startswith(f"{NAME} ")
    assert "reused from" in second
    assert main(["run", "--candidate", str(port), "--case", CASE, "--reuse", "--quiet"]) == 0
    assert "reused" not in capsys.readouterr().out


def test_where_nothing_can_be_known_nothing_is_reused_or_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reuse, "unknowable", lambda: "a GPU is here")
    assert not is_reused()
    assert capsys.readouterr().err == "no verdict is reused: a GPU is here\n"
    assert folder


def test_a_folder_that_cannot_be_read_is_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_options: argparse.Namespace) -> dict[str, str]:
        raise PermissionError(13, "Permission denied", "/a/place")

    monkeypatch.setattr(reuse, "dependencies", refuse)
    assert not is_reused()
    assert capsys.readouterr().err == "no verdict is reused: /a/place: Permission denied\n"
    assert folder


def test_what_changes_meanwhile_keeps_verdicts_from_being_kept(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of()
    keeping = begin(options)
    found = taken_over(keeping, [NAME], options)[NAME]
    monkeypatch.setattr(reuse, "is_full_pass", lambda _verdict: True)
    kept_file().unlink()
    monkeypatch.setenv("PYTHON_MY_SWITCH", "1")
    keep(keeping, [found], {NAME: {"/": known_as("/")}}, 1, options)
    assert "while the candidates ran, an environment variable has changed" in capsys.readouterr().err
    assert not [*VERDICTS.iterdir()]
    monkeypatch.delenv("PYTHON_MY_SWITCH")
    keep(keeping, [found], {}, 1, options)
    assert not [*VERDICTS.iterdir()]
    keep(keeping, [found], {NAME: {"/": known_as("/")}}, 1, options)
    assert kept_file().name.startswith(f"{NAME}.")
    assert folder


@pytest.mark.parametrize("name", ["torch_compiled", "my_port.py"])
def test_a_port_of_which_not_everything_is_known_is_neither_kept_nor_taken_over(name: str, folder: Path) -> None:
    options = options_of()
    keeping = begin(options)
    assert keeping is not None
    found = replace(taken_over(keeping, [NAME], options)[NAME], name=name)
    own = CandidateVerdict(**{field.name: getattr(found, field.name) for field in fields(CandidateVerdict)})
    keep(keeping, [own], {name: {"/": known_as("/")}}, 1, options)
    assert [path.name.partition(".")[0] for path in VERDICTS.iterdir()] == [NAME]
    write_kept(
        path_of(VERDICTS, name, keeping.asked),
        told_of(own).found,
        found.reused,
        keeping.depends_on,
        {"/": known_as("/")},
    )
    assert taken_over(keeping, [name, NAME], options).keys() == {NAME}
    assert folder


def test_a_place_that_refuses_is_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(VERDICTS)
    VERDICTS.touch()
    assert main(["run", *WORDS, "--reuse", "--quiet"]) == 0
    assert f"{NAME}: its verdict is not kept for later: " in capsys.readouterr().err
    VERDICTS.unlink()
    assert folder
