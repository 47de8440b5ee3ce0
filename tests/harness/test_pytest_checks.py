"""What a port's tests ask of its verdict: a check per case, and per operation and compute dtype."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grok_conformance.harness import pytest_checks
from grok_conformance.harness.cases.drawn import drawn_as
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.groups import Group, read_groups
from grok_conformance.harness.judging.narrowing import Narrow
from grok_conformance.harness.judging.told import conformance_digest
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict
from grok_conformance.harness.pytest_checks import (
    Check,
    case_problem,
    checks,
    groups_of,
    judge,
    judged_once,
    needed,
    node_name,
)
from grok_conformance.harness.report.reproduction import reproduce
from grok_conformance.harness.running.registry import UnknownCandidateError
from tests.harness.honest_port import golden
from tests.harness.report.verdicts import CASE, CRASHED, FAILING, PASSING, verdict


def test_there_is_a_check_per_case_and_per_operation_and_dtype() -> None:
    found = checks("numpy_float64", "stress/*.float32", 3, None)
    assert "stress/prefill/saturated_cap.float32" in found
    assert "moe.norm[float32]" in found
    assert not [name for name in found if name.endswith("[bfloat16]")]
    assert not [name for name in found if name.startswith("dense.")]


def test_what_cannot_be_judged_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UnknownCandidateError, match="numpy_flaot64"):
        checks("numpy_flaot64", "*", 3, None)
    with pytest.raises(FileError, match="strees"):
        checks("numpy_float64", "strees/*", 3, None)
    (tmp_path / "known.toml").write_text("[[deviation]]")
    with pytest.raises(FileError, match=r"known\.toml"):
        checks("numpy_float64", "*", 3, tmp_path / "known.toml")


def test_a_check_says_nothing_of_what_passes_and_why_it_fails() -> None:
    assert Check(case=CASE)(verdict(PASSING)) == ""
    assert Check(case=CASE)(verdict(FAILING)).startswith("fail: too far\n  wrong at  attention.key\n")
    assert Check(operation="attention.query", dtype="bfloat16")(verdict(PASSING)) == ""
    assert "12.5 times" in Check(operation="attention.key", dtype="bfloat16")(verdict(FAILING))
    assert Check()(verdict(PASSING)) == ""


def test_an_operation_that_is_not_shown_is_skipped() -> None:
    with pytest.raises(pytest.skip.Exception):
        Check(operation="moe.norm", dtype="bfloat16")(verdict(PASSING))


def test_an_operation_of_a_candidate_that_crashed_fails_and_is_not_skipped() -> None:
    assert Check(operation="moe.norm", dtype="bfloat16")(verdict(CRASHED)) == "error: killed by signal 11"


GROUPS = read_groups(golden(), "stress/*")


def test_cases_alone_are_run_alone_and_whole() -> None:
    groups, narrow = needed(GROUPS, [Check(case="stress/prefill/saturated_cap.float32")], whole=False)
    assert [case.id for group in groups for case in group.cases] == ["stress/prefill/saturated_cap.float32"]
    assert not narrow


def test_operations_alone_are_checked_locally_in_the_cases_of_their_dtype() -> None:
    groups, narrow = needed(GROUPS, [Check(operation="moe.norm", dtype="bfloat16")], whole=False)
    assert {group.fprop_dtype for group in groups} == {"bfloat16"}
    assert narrow.operations == ("moe.norm",)


def test_an_operation_alone_is_judged_without_what_is_drawn_if_it_is_to_be_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def run(_candidates: object, groups: tuple[Group, ...], *_: object, **_named: object) -> list[object]:
        asked[:] = [case.id for group in groups for case in group.cases]
        raise FileError("seen")

    monkeypatch.setattr(pytest_checks, "run_candidates", run)
    for check, quick, draws in (
        (Check(operation="moe.norm", dtype="float32"), True, False),
        (Check(operation="moe.norm", dtype="float32"), False, True),
        (Check(), True, True),
    ):
        with pytest.raises(FileError, match="seen"):
            judge("numpy_float64", "*", 3, None, [check], quick=quick)
        assert any(drawn_as(case) for case in asked) == draws
        assert any(case.startswith("sweep_") for case in asked) == draws


@pytest.mark.parametrize("more", [Check(), Check(operation="moe.norm", dtype="float32")])
def test_waivers_or_cases_with_operations_need_a_whole_run(more: Check) -> None:
    case = Check(case="stress/prefill/saturated_cap.float32")
    assert needed(GROUPS, [case, more], whole=False) == (tuple(GROUPS), Narrow())
    assert needed(GROUPS, [case], whole=True) == (tuple(GROUPS), Narrow())


def test_workers_share_one_verdict(tmp_path: Path) -> None:
    judged: list[int] = []

    def judge() -> CandidateVerdict:
        judged.append(1)
        return verdict(FAILING)

    found = [judged_once(tmp_path / "port.verdict", judge) for _ in range(3)]
    assert {conformance_digest(each) for each in found} == {conformance_digest(verdict(FAILING))}
    assert judged == [1]


def test_what_is_drawn_has_a_test_of_the_same_name_whatever_the_seed() -> None:
    one, other = ({node_name(case.id) for g in groups_of(golden(), "*", seed) for case in g.cases} for seed in (3, 4))
    assert one == other
    assert {"sweep_long/sweep/chunks~redrawn", "unequal/prefill/padded_batch~redrawn", "reweighted[float32]"} <= one


def test_a_drawn_case_that_fails_says_how_it_is_drawn_again_and_a_declined_one_does_not_fail() -> None:
    drawn = "sweep_long/sweep/chunks~redrawn-7.float32"
    failing = replace(verdict(FAILING), cases=(CaseVerdict(case=drawn, status="fail", reason="too far"),))
    told = case_problem(failing, drawn)
    assert told == f"fail: too far\n  drawn     by seed 7, as {drawn}\n  reproduce {reproduce('port', drawn)}"
    declined = CaseVerdict(case=drawn, status="unsupported", reason="no truncate()", waived=("open",))
    assert case_problem(replace(failing, cases=(declined,)), drawn) == ""
