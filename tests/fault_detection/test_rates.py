from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.diagnosis.power import power_table
from grok_conformance.harness.judging.operations import JudgedOperations
from tests.fault_detection import session, summary
from tests.fault_detection.experiments import Null, PowerCheck, Trial
from tests.fault_detection.honest_runs import Run, Suite, SuiteResult, rates_of
from tests.fault_detection.rates import clopper_pearson
from tests.fault_detection.session import Results
from tests.fault_detection.trials import Judged

FOUND = Trial("gelu_erf", "float32", 0, detected=True, located=True, named=True, operations=("moe.expert_hidden",))
SURVIVED = replace(FOUND, detected=False, located=False, named=False, operations=())


def test_the_bounds_are_those_of_clopper_and_pearson() -> None:
    assert clopper_pearson(0, 2000, 0.95) == pytest.approx((0, 1 - 0.025 ** (1 / 2000)))
    assert clopper_pearson(60, 60, 0.95) == pytest.approx((0.025 ** (1 / 60), 1))
    assert clopper_pearson(5, 10, 0.95) == pytest.approx((0.187, 0.813), abs=5e-4)


def test_a_surviving_fault_fails_the_session_unless_its_power_is_below_one_half() -> None:
    assert summary.failures(Results(oracle=[FOUND]), power_table(), {}) == []
    survivors = summary.failures(Results(port=[SURVIVED]), power_table(), {})
    assert survivors[0] == "gelu_erf in float32 survives in the port"
    blind = {"caches": {name: x for name, x in power_table()["caches"].items() if name != "gelu_erf"}}
    assert summary.failures(Results(port=[SURVIVED]), blind, {}) == []


def test_an_accepted_null_and_a_false_alarm_fail_the_session() -> None:
    null = Null("all zeros", "logits", "float32", rejected=False)
    assert summary.failures(Results(nulls=[null]), power_table(), {}) == ["all zeros passes for logits in float32"]
    alarmed = Results(honest={"alarms": ("torch: usual/honest/0: too far",)})
    assert summary.failures(alarmed, power_table(), {}) == ["honest run failed: torch: usual/honest/0: too far"]


def test_a_rate_below_the_committed_one_fails_the_session() -> None:
    committed = summary.as_json(Results(oracle=[FOUND, FOUND]), power_table())
    unnamed = Results(oracle=[FOUND, replace(FOUND, named=False)])
    (failure,) = summary.failures(unnamed, power_table(), committed)
    assert failure.startswith("oracle.float32.named fell to 1 of 2")


def test_a_committed_rate_that_is_measured_no_longer_fails_the_session() -> None:
    committed = summary.as_json(Results(oracle=[FOUND]), power_table())
    assert summary.failures(Results(), power_table(), committed) == [
        f"oracle.float32.{aspect} fell to not measured, committed 1 of 1" for aspect in summary.ASPECTS
    ]
    renamed = {"rates": {"gone.float32.named": {"count": 0, "trials": 3}}}
    assert summary.failures(Results(), power_table(), renamed) == [
        "gone.float32.named fell to not measured, committed 0 of 3"
    ]


def test_an_empty_session_fails_by_every_committed_rate() -> None:
    committed = json.loads((summary.FOLDER / "rates.json").read_text())
    assert len(summary.failures(Results(), power_table(), committed)) == len(committed["rates"])


def test_where_no_honest_run_is_made_the_committed_ones_are_kept() -> None:
    committed = json.loads((summary.FOLDER / "rates.json").read_text())
    kept = summary.with_honest(Results(oracle=[FOUND]), committed)
    assert summary.as_json(kept, power_table())["honest"] == committed["honest"]
    assert "## Honest runs" in summary.as_markdown(kept, power_table())
    made = Results(honest=honest_rates(Suite("torch eager", 0)))
    assert summary.with_honest(made, committed) == made


def diagnosis_of(*faults: str) -> Diagnosis:
    return Diagnosis(faults, "gelu_erf", 1.0, 0.0, 1.0, 9.0, "no fault")


@pytest.mark.parametrize(
    ("diagnoses", "named"),
    [
        ({}, False),
        ({"logits": diagnosis_of("gelu_erf")}, False),
        ({"logits": diagnosis_of("gelu_erf"), "moe.output": diagnosis_of()}, False),
        ({"logits": diagnosis_of("gelu_erf"), "moe.output": diagnosis_of("gelu_erf", "other")}, True),
    ],
)
def test_a_fault_is_named_where_every_operation_blamed_is_diagnosed_with_it(
    diagnoses: dict[str, Diagnosis], *, named: bool
) -> None:
    judged = Judged(JudgedOperations((), {}, frozenset({"logits"}), frozenset({"moe.output"}), diagnoses))
    assert judged.named("gelu_erf") == named


def test_power_agrees_where_the_prediction_lies_within_the_interval_of_what_was_observed() -> None:
    right = PowerCheck("gelu_erf", "float32", "caches", 0.5, predicted=0.7, found=7, runs=10)
    (row,) = summary.calibration(Results(powers=[right]), power_table())
    assert row["agrees"]
    wrong = Results(powers=[replace(right, found=1)])
    (row,) = summary.calibration(wrong, power_table())
    assert not row["agrees"]
    failure = "power of doses in the oracle, 50%–90%: predicted 70.0%, observed 10.0%"
    assert summary.failures(wrong, power_table(), {}) == [failure]


def test_power_is_compared_with_what_was_found_in_the_port_too() -> None:
    (row,) = summary.calibration(Results(port=[FOUND] * 10 + [SURVIVED] * 10), power_table())
    assert (row["what"], row["predicted"], row["observed"]) == ("whole faults in the torch port, float32", 1, 0.5)
    assert not row["agrees"]


def test_a_rate_reads_with_its_bounds() -> None:
    assert str(summary.Rate(58, 60)) == "58 of 60, 96.7 % (88.5–99.6)"


def test_the_committed_rates_reach_what_the_design_asks_for() -> None:
    rates = json.loads((summary.FOLDER / "rates.json").read_text())["rates"]

    def share(name: str) -> float:
        return rates[name]["count"] / rates[name]["trials"]

    for source in summary.SOURCES:
        assert share(f"{source}.float32.detected") == 1
        for dtype in ("float32", "bfloat16"):
            assert share(f"{source}.{dtype}.located") >= 0.98
            assert share(f"{source}.{dtype}.named") >= 0.95
    assert all(share(f"nulls.{dtype}.rejected") == 1 for dtype in ("float32", "bfloat16"))


def test_the_readme_tells_the_rates_of_the_port_and_of_honest_runs() -> None:
    rates = honest_rates(Suite("torch eager", 0))
    block = summary.readme_block(Results(port=[FOUND, SURVIVED], honest=rates))
    assert "| detected | 1 of 2, 50.0 % (1.3–98.7) | not measured |" in block
    assert f"Honest runs failed: 0 of {rates['num_runs']} (95 % bounds 0.00%–" in block
    assert "1 ways to compute" in block


def honest_rates(suite: Suite) -> dict[str, Any]:
    """Return the rates of one suite in which nothing failed."""
    result = SuiteResult(
        suite, (Run("usual", "float32", failed=False),), (), suite_failed=False, num_flips=0, extremes=(), seconds=0.0
    )
    return asdict(rates_of([result]))


REDUCED = ("gelu_erf", "gates_renormalised", "rope_cos_sin_bf16", "scales_interleaved", "decode_position_zero")


@pytest.mark.timeout(1200)  # every dose of every fault has its ways searched
def test_a_reduced_session_finds_locates_and_names_its_faults() -> None:
    results = session.run(REDUCED, oracle_draws=1, port_draws=1, num_honest_runs=0, with_power=False)
    assert len(results.oracle) == len(results.port) == 2 * len(REDUCED)
    assert all(trial.detected and trial.located and trial.named for trial in (*results.oracle, *results.port))
    assert all(row.detected and not row.taken_for for row in results.left_out)
    # Half of an erf gelu errs by less than a hardware's tanh may, and is taken for one.
    assert all(floor.halvings >= int(floor.fault != "gelu_erf") for floor in results.floors)
    assert summary.failures(results, power_table(), {}) == []
    assert "gelu_erf" in summary.as_markdown(results, power_table())
