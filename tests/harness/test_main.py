"""The command line as its users meet it: exit statuses, messages and reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.cases.drawn import stored_id

CASE = "stress/prefill/saturated_cap.float32"


GOOD = "from grok_conformance.candidates.numpy_float64 import INFO, load\n"


ADAPTERS = {
    "good": GOOD,
    "logits_only": GOOD + "from dataclasses import replace\nINFO = replace(INFO, taps=('logits',))\n",
    "blind": GOOD + "from dataclasses import replace\nINFO = replace(INFO, taps=('embedding',))\n",
    "wrong": """
from grok_conformance.candidates.numpy_float64 import INFO, load as load_right

def load(config, weights):
    name = "transformer/decoder_layer_0/rms_norm_2/scale"
    return load_right(config, {**weights, name: 1 + weights[name]})
""",
    "silent": """
from grok_conformance.candidates.numpy_float64 import INFO, load as load_right

def load(config, weights):
    return Silent(load_right(config, weights))

class Silent:
    def __init__(self, model):
        self.model = model

    def prefill(self, tokens, lengths, taps):
        made = self.model.prefill(tokens, lengths, taps)
        return {name: x for name, x in made.items() if not name.endswith("router.logits")}
""",
    "refuses": """
from grok_conformance.candidates.numpy_float64 import INFO
from grok_conformance.harness.contract import Unsupported

def load(config, weights):
    raise Unsupported("seven experts")
""",
    "crashes": """
from grok_conformance.candidates.numpy_float64 import INFO

def load(config, weights):
    raise MemoryError("no room")
""",
}


STATUSES = {
    "good": "pass",
    "logits_only": "pass",
    "blind": "missing",
    "wrong": "fail",
    "silent": "missing",
    "refuses": "unsupported",
    "crashes": "error",
}


@dataclass(frozen=True)
class Ran:
    """One run of every adapter: where the adapters and the kept folders lie, exit status, and reports."""

    adapters: Path
    kept: Path
    exit_status: int
    report: dict[str, Any]
    junit: ET.Element
    output: str


def path_of(folder: Path, name: str) -> str:
    return str(folder / f"{name}.py")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("adapters")
    chosen: list[str] = []
    for name, text in ADAPTERS.items():
        (folder / f"{name}.py").write_text(text)
        chosen += ["--candidate", path_of(folder, name)]
    capture = pytest.MonkeyPatch()
    lines: list[str] = []
    capture.setattr("sys.stdout.write", lines.append, raising=False)
    files = ["--json", str(folder / "run.json"), "--junit", str(folder / "run.xml"), "--keep", str(folder / "kept")]
    try:
        status = main(["run", "--case", CASE, *chosen, *files])
    finally:
        capture.undo()
    report = json.loads((folder / "run.json").read_text())
    junit = ET.parse(folder / "run.xml").getroot()  # noqa: S314 - our own report
    return Ran(folder, folder / "kept", status, report, junit, "".join(lines))


def test_every_status_is_told_in_the_json_report(ran: Ran) -> None:
    assert ran.exit_status == 1
    assert {Path(row["name"]).stem: row["status"] for row in ran.report["candidates"]} == STATUSES
    levels = {Path(row["name"]).stem: row["level"] for row in ran.report["candidates"]}
    assert (levels["good"], levels["logits_only"], levels["blind"]) == ("caches", "logits", "none")


def test_the_json_report_says_what_was_found_at_every_operation(ran: Ran) -> None:
    (wrong,) = (row for row in ran.report["candidates"] if Path(row["name"]).stem == "wrong")
    failing = {row["operation"]: row for row in wrong["operations"] if row["status"] != "pass"}
    assert set(failing) == {"moe.norm"}
    assert failing["moe.norm"]["layers_at_fault"] == [0]
    assert {stored_id(case) for case in failing["moe.norm"]["cases_at_fault"]} == {CASE}
    assert wrong["cases"][0]["reason"].startswith("layers.00.moe.norm:")


def test_the_junit_report_counts_every_case_and_operation(ran: Ran) -> None:
    suites = {Path(suite.get("name", "")).stem: suite for suite in ran.junit}
    assert set(suites) == set(ADAPTERS)
    for name, suite in suites.items():
        tests = suite.findall("testcase")
        bad = [test for test in tests if any(told.tag != "skipped" for told in test)]  # a drawn case may be declined
        assert suite.get("tests") == str(len(tests))
        assert int(suite.get("failures", "")) + int(suite.get("errors", "")) == len(bad)
        assert bool(bad) == (STATUSES[name] != "pass") or name == "blind"
    assert suites["crashes"].get("errors") == "3"  # the stored case, and it drawn again with other tokens and weights


def judge(ran: Ran, name: str) -> int:
    out = ran.kept / "answers" / path_of(ran.adapters, name).replace("/", "_")
    return main(["judge", str(ran.kept / "jobs"), str(out)])


@pytest.mark.parametrize("name", ADAPTERS)
def test_only_a_pass_exits_with_0(name: str, ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(ran, name) == (0 if STATUSES[name] == "pass" else 1)
    assert STATUSES[name] in capsys.readouterr().out


def test_a_pass_names_its_level(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    judge(ran, "good")
    assert "pass (caches)" in capsys.readouterr().out
    judge(ran, "logits_only")
    assert "pass (logits)" in capsys.readouterr().out


def test_a_failure_says_where_what_and_how_to_see_just_this(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    judge(ran, "wrong")
    output = capsys.readouterr().out
    assert "moe.norm: fail in float32, layers 0" in output
    assert f"case      {CASE.removesuffix('.float32')}" in output  # or it drawn again, whichever is worse
    assert "call 0, tap layers.00.moe.norm" in output
    assert "observed" in output
    assert "  reproduce " in output


@pytest.mark.parametrize(
    ("name", "level", "status"), [("good", "caches", 0), ("logits_only", "logits", 0), ("logits_only", "routes", 1)]
)
def test_a_required_level_must_be_reached(
    name: str, level: str, status: int, ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    path = path_of(ran.adapters, name)
    assert main(["run", "--case", CASE, "--candidate", path, "--require", f"{path}:{level}"]) == status
    assert ("its level is below the required routes" in capsys.readouterr().err) == (status == 1)


def run_broken(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(str(end.code))
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "no command 'lst'; did you mean list?"),
        (["list", "casse"], "no list 'casse'; did you mean cases?"),
        (["list", "cases", "strees/*"], "no case 'strees/*'; did you mean stress/prefill/saturated_cap.bfloat16"),
        (
            ["explain", "embeding"],
            "no fault, operation, verdict, level, case, preset or word 'embeding'; did you mean embedding",
        ),
        (["run", "--quiet", "--verbose"], "not allowed with"),
        (["run", "--golden", "no/such/golden"], "no/such/golden: no such folder"),
        (["run", "--case", "strees/*", "--candidate", "numpy_float64"], "no case 'strees/*'"),
        (["run", "--case", CASE, "--candidate", "numpy_flaot64"], "did you mean numpy_float64?"),
        (["run", "--case", CASE, "--require", "numpy_flaot64:logits"], "did you mean numpy_float64?"),
        (["run", "--require", "numpy_float64"], "is not NAME:LEVEL"),
        (["run", "--require", "numpy_float64:everything"], "is not NAME:LEVEL with a level of logits, routes"),
        (["run", "--case", CASE, "--candidate", "numpy_float64", "--keep", "."], "exists already: give a new folder"),
        (["judge", "no/such/job", "no/such/out"], "no/such/job"),
        (["check-golden", "no/such/golden"], "no/such/golden: no such folder"),
        (["capture", "--replace", "unequal/*"], "--replace needs --reason TEXT"),
        (["capture", "--reason", "better"], "--replace needs --reason TEXT"),
        (["frobnicate"], "no command 'frobnicate'; there are"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_usage_and_broken_fixtures_exit_with_2_and_say_why(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = run_broken(arguments, capsys)
    assert status == 2
    assert message in error
    assert "Traceback" not in error


KNOWN = """
[[deviation]]
candidate = "*"
case = "{case}"
tap = "moe.norm"
fault = "norm_scale_plus_one"
reason = "Gemma's norm"
reference = "issue 7"
expires = "{expires}"
"""


@pytest.mark.parametrize(
    ("adapter", "case", "expires", "status", "says"),
    [
        ("wrong", CASE, "2999-01-01", 0, "pass (caches) with 1 known deviation;"),
        ("wrong", CASE, "2026-01-01", 1, "expired 2026-01-01"),
        ("good", CASE, "2999-01-01", 1, "no longer needed"),
        ("wrong", "dense/*", "2999-01-01", 1, "moe.norm: fail"),
    ],
)
def test_a_file_of_waivers_makes_a_pass_of_exactly_the_known_deviation_until_it_expires(
    adapter: str, case: str, expires: str, status: int, says: str, ran: Ran, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    known = tmp_path / "known.toml"
    known.write_text(KNOWN.format(case=case, expires=expires))
    path = path_of(ran.adapters, adapter)
    assert main(["run", "--case", CASE, "--candidate", path, "--waivers", str(known)]) == status
    assert says in " ".join(capsys.readouterr().out.split())


def test_a_waiver_of_a_tap_that_does_not_exist_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "known.toml"
    known.write_text(KNOWN.format(case=CASE, expires="2999-01-01").replace("moe.norm", "moe.nrom"))
    status, text = run_broken(["run", "--case", CASE, "--candidate", "numpy_float64", "--waivers", str(known)], capsys)
    assert status == 2
    assert "no tap or operation 'moe.nrom'; did you mean moe.norm" in text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(28, "No space left on device", "/full/run.json"),
            "/full/run.json: No space left on device: make room",
        ),
        (OSError(2, "No such file or directory", "/proc/x"), "/proc/x: No such file or directory: give another place"),
        (MemoryError(), "out of memory: judge fewer cases at once"),
        (RecursionError(), "nested too deeply"),
        (KeyboardInterrupt(), "interrupted: nothing was judged"),
        (OSError(36, "File name too long", "n" * 5000), "n" * 300 + ": File name too long"),
    ],
)
def test_what_the_machine_refuses_is_one_short_line_and_status_2(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_options: object) -> int:
        raise error

    monkeypatch.setattr("grok_conformance.harness.commands.check_golden.execute", fail)
    assert main(["check-golden"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(line)
    assert len(told) <= 500


def test_a_report_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    assert main(["run", "--candidate", "numpy_float64", "--json", str(tmp_path / "folder")]) == 2
    assert "cannot be written: a folder" in capsys.readouterr().err
