"""What a probe shows in bfloat16 from the logits alone, which the suite's own presets do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.cases.probes import make_probe, probe_cases
from grok_conformance.harness.contract import LogitForm
from grok_conformance.harness.diagnosis.probe_design import HONEST, prepare, score, search, strengths
from grok_conformance.harness.faults import FAULTS

CASE = "probe_moe/prefill/rows.bfloat16"
SHOWN = ("gates_renormalised", "gelu_erf", "router_tf32")


def probe_case(num_rows: int) -> Case:
    (case,) = probe_cases(CASE)
    (call,) = case.calls
    return replace(case, calls=(replace(call, tokens=call.tokens[:num_rows], lengths=call.lengths[:num_rows]),))


def test_faults_of_the_experts_show_in_every_form_and_an_honest_port_passes() -> None:
    forms = [LogitForm(), LogitForm(positions="last")]
    preset, case = make_probe("probe_moe"), probe_case(24)
    found = strengths([prepare(preset, case, form) for form in forms], {name: FAULTS[name] for name in SHOWN})
    assert max(found[HONEST]) <= 1
    for name in SHOWN:
        assert found[name][0] > 1, name
    assert min(found["gates_renormalised"]) > 1


def test_a_probe_in_which_an_honest_port_fails_scores_nothing() -> None:
    assert score({HONEST: [1.1], "gelu_erf": [9.0]}) == 0
    assert score({HONEST: [0.5], "gelu_erf": [9.0], "gelu_quick": [0.5]}) == pytest.approx((3 + 0.5) / 2)


def test_a_search_tries_other_recipes_and_keeps_the_best() -> None:
    tried: list[float] = []
    best, recipe = search(
        "probe_moe", probe_case(4), {"gelu_erf": FAULTS["gelu_erf"]}, 2, 0, lambda found, _recipe: tried.append(found)
    )
    assert len(tried) == 2
    assert best >= max(tried)
    assert np.isfinite(recipe.activation)
