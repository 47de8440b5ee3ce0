"""What RATES.md says of probes is what was measured, and the probes see what they are made for."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from grok_conformance.harness.diagnosis.probe_design import HONEST
from grok_conformance.harness.diagnosis.probe_power import FILE
from tests.fault_detection.probe_rates import (
    BEGIN,
    DETECTED,
    END,
    FORMS,
    KNOWN,
    SIDES,
    Side,
    page,
    recorded,
    shipped,
    strongest,
)
from tests.fault_detection.summary import PAGE

FOUND = recorded()
OF_THE_EXPERTS = (
    "gates_renormalised", "softmax_after_top_k", "router_logits_capped", "router_in_bf16", "router_tf32", "gelu_erf",
    "gelu_quick", "silu_for_gelu", "norm_eps_1e6", "top_1_only", "top_k_off_by_one", "experts_permuted",
)  # fmt: skip
BY_NUMBERS = [i for i, form in enumerate(FORMS.values()) if form.logits.kind != "tokens"]


def test_the_page_is_what_was_measured() -> None:
    assert f"{BEGIN}\n\n{page(FOUND)}\n\n{END}" in PAGE.read_text()


def test_the_power_that_a_run_tells_is_what_was_predicted() -> None:
    assert json.loads(FILE.read_text()) == json.loads(json.dumps(asdict(shipped(FOUND))))


def test_an_honest_port_passes_in_every_case_and_form() -> None:
    for case, measured in FOUND.items():
        assert max(*measured.predicted[HONEST], *measured.observed[HONEST]) <= DETECTED, case


@pytest.mark.parametrize("side", SIDES)
def test_every_fault_was_asked_for(side: Side) -> None:
    assert set(strongest(FOUND, side, "bfloat16", 0)) == {HONEST, *KNOWN}


@pytest.mark.parametrize(("form", "least"), [*zip(BY_NUMBERS, (0.98, 0.96, 0.98, 1.0), strict=True)])
def test_of_the_known_faults_this_share_is_seen_in_bfloat16(form: int, least: float) -> None:
    best = strongest(FOUND, "observed", "bfloat16", form)
    seen = [name for name in KNOWN if best[name] > DETECTED]
    assert len(seen) >= least * len(KNOWN)


@pytest.mark.parametrize("form", BY_NUMBERS[:3])
def test_logits_alone_show_every_fault_of_the_experts_in_bfloat16(form: int) -> None:
    best = strongest(FOUND, "observed", "bfloat16", form)
    assert {name for name in OF_THE_EXPERTS if best[name] > DETECTED} == set(OF_THE_EXPERTS)
