"""What PROBES.md says is what was measured, and the probes see what they are made for."""

from __future__ import annotations

import json

import pytest

from grok_conformance.harness.diagnosis.probe_design import HONEST
from tests.fault_detection.probe_rates import FORMS, PAGE, RESULTS, page, strongest

FOUND = json.loads(RESULTS.read_text())
OF_THE_EXPERTS = (
    "gates_renormalised", "softmax_after_top_k", "router_logits_capped", "router_in_bf16", "router_tf32", "gelu_erf",
    "gelu_quick", "silu_for_gelu", "norm_eps_1e6", "top_1_only", "top_k_off_by_one", "experts_permuted",
)  # fmt: skip
SHOWN_BY_NUMBERS = [i for i, form in enumerate(FORMS.values()) if form.kind != "tokens"]


def test_the_page_is_what_was_measured() -> None:
    assert PAGE.read_text() == page(FOUND)


@pytest.mark.parametrize("side", ["predicted", "observed"])
def test_an_honest_port_passes_in_every_case_and_form(side: str) -> None:
    assert all(max(faults[HONEST]) <= 1 for faults in FOUND[side].values())


@pytest.mark.parametrize("form", SHOWN_BY_NUMBERS)
def test_faults_of_the_experts_are_seen_in_bfloat16_logits_alone(form: int) -> None:
    best = strongest(FOUND, "observed", "bfloat16", form)
    assert {name for name in OF_THE_EXPERTS if name in best} == {
        name for name in OF_THE_EXPERTS if best.get(name, 0) > 1
    }
    assert sum(name in best for name in OF_THE_EXPERTS) >= 10
