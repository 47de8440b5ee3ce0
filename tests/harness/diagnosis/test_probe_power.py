"""What a run over probes tells of its power, by what a candidate shows."""

from __future__ import annotations

from typing import Any

import pytest

from grok_conformance.harness.cases.probes import probe_cases
from grok_conformance.harness.contract import CandidateInfo, LogitForm
from grok_conformance.harness.diagnosis.power import describe, power_of_run
from grok_conformance.harness.diagnosis.probe_power import forms_of, power_of_probes, probe_table
from grok_conformance.harness.faults import FAULTS

RUN = [(case.id, case.fprop_dtype) for case in probe_cases("probe_*")]


def info(*taps: str, **form: Any) -> CandidateInfo:
    return CandidateInfo(name="port", version="", taps=taps or ("logits",), logits=LogitForm(**form))


@pytest.mark.parametrize(
    ("shown", "forms"),
    [
        (info(), ("all logits",)),
        (info("*"), ("hidden states, router logits, cache",)),
        (info("layers.*.output", "logits"), ("all logits",)),
        (info(positions="last"), ("last position",)),
        (info(kind="log_probabilities"), ("top 20 log probabilities",)),
        (info(kind="log_probabilities", top=20), ("top 20 log probabilities",)),
        (info(kind="log_probabilities", top=5), ("greedy tokens",)),
        (info(kind="log_probabilities", positions="last"), ("top 20 log probabilities", "last position")),
        (info("*", kind="tokens"), ("greedy tokens",)),
        (info(kind="tokens", positions="last"), ("greedy tokens", "last position")),
    ],
)
def test_what_is_shown_is_told_by_the_measured_forms_that_come_nearest(
    shown: CandidateInfo, forms: tuple[str, ...]
) -> None:
    assert forms_of(shown) == forms


def test_greedy_tokens_see_next_to_nothing_and_logits_almost_all() -> None:
    for tokens, logits in zip(*(power_of_probes(shown, RUN) for shown in (info(kind="tokens"), info())), strict=True):
        assert len(tokens.invisible) > 50
        assert len(logits.invisible) < 5
        assert "by probes of which it shows greedy tokens: " in describe(tokens)
        assert "gelu_erf" in describe(tokens).partition("cannot see ")[2]


def test_what_one_probe_was_not_asked_for_is_not_told_of_it() -> None:
    (power,) = power_of_probes(info(), [("probe_ties/prefill/tie_rule.float32", "float32")])
    assert set(power.probability) == set(probe_table().measured["probe_ties/prefill/tie_rule.float32"])
    assert set(power.probability).isdisjoint(power.not_asked)
    assert power.not_asked


def test_golden_cases_are_told_elsewhere_and_a_case_that_was_not_measured_tells_nothing() -> None:
    assert power_of_probes(info(), [("stress/prefill/saturated_cap.float32", "float32")]) == ()
    assert power_of_run("logits", RUN) == ()
    (power,) = power_of_probes(info(), [("probe_new/prefill/rows.float32", "float32")])
    assert power.probability == {}


def test_the_table_knows_no_other_faults_and_sees_none_that_it_did_not_ask_for() -> None:
    table = probe_table()
    for cases in table.seen.values():
        for case, faults in cases.items():
            assert set(faults) <= set(table.measured[case]) <= set(FAULTS)
