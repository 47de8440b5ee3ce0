from __future__ import annotations

from grok_conformance.harness.contract import LEVELS
from grok_conformance.harness.diagnosis.power import describe, power_of_run, power_table
from grok_conformance.harness.diagnosis.power_model import faults_shown_by
from grok_conformance.harness.faults import FAULTS
from grok_conformance.harness.golden.reading import case_ids
from tests.harness.honest_port import golden

STRESS = "stress/prefill/saturated_cap"


RUN = [(case, case.rsplit(".", 1)[1]) for case in case_ids(golden())]


def test_a_full_run_sees_every_known_fault_from_all_taps() -> None:
    for power in power_of_run("caches", RUN):
        assert (power.invisible, power.not_asked) == ((), ())
        assert len(power.probability) == sum(not fault.harmless for fault in FAULTS.values())
        assert "cannot see" not in describe(power)


def test_a_candidate_that_shows_only_logits_is_told_what_they_cannot_show() -> None:
    narrow, wide = power_of_run("logits", RUN)
    assert (narrow.fprop_dtype, wide.fprop_dtype) == ("bfloat16", "float32")
    assert {"gates_renormalised", "attention_multiplier_on_output", "gelu_erf"} <= set(narrow.invisible)
    assert "cannot see" in describe(narrow)
    assert "gates_renormalised" in describe(narrow)
    assert "other cases" not in describe(narrow)


def test_a_run_of_few_cases_is_told_how_many_faults_need_others() -> None:
    (narrow,) = power_of_run("caches", [(f"{STRESS}.bfloat16", "bfloat16")])
    assert narrow.not_asked
    assert describe(narrow).endswith(f"{len(narrow.not_asked)} others need other cases")


def test_a_higher_level_sees_no_less() -> None:
    seen = [{x for power in power_of_run(level, RUN) for x in power.invisible} for level in LEVELS]
    assert len(seen[0]) > len(seen[1]) > len(seen[2]) > len(seen[3])


def test_a_run_over_few_cases_tells_which_faults_nothing_asked_for() -> None:
    (power,) = power_of_run("caches", [(f"{STRESS}.float32", "float32")])
    assert "gelu_erf" in power.probability
    assert "decode_position_zero" in power.not_asked
    assert "decode_position_zero" not in power.probability


def test_the_committed_table_is_that_of_the_fault_table_and_the_golden_set() -> None:
    assert set(power_table()) == set(LEVELS)
    asked = {name for case, _ in RUN for name in faults_shown_by(case)}
    assert asked == {name for name, fault in FAULTS.items() if fault.changes}
    for powers in power_table().values():
        assert set(powers) <= set(FAULTS)
        assert {case for power in powers.values() for case in power} <= {case for case, _ in RUN}
