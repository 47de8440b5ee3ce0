"""What may be read of an input beyond what is shown of it."""

from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.checks.edges import carriable, of_caches, of_edges
from grok_conformance.harness.checks.exhibit import Exhibit, Ways, exhibit_of
from tests.harness.honest_port import INFO, golden_case, golden_taps

CASE = "unequal/prefill/padded_batch"


def shown(dtype: str, **info: object) -> Exhibit:
    preset, case = golden_case(f"{CASE}.{dtype}")
    return exhibit_of(preset, case, replace(INFO, **info), golden_taps(case.id))  # type: ignore[arg-type]


def edges(row: str, one: Exhibit) -> set[frozenset[tuple[str, str]]]:
    there = one.evidence.graph.by_name[row]
    made = [*of_edges(there, Ways(), [one]), *of_caches(there, Ways(), [one])]
    return {frozenset(edge[1:] for edge in ways.readings) for ways in made}


def test_what_is_stored_in_bf16_may_be_read_before_it_is_rounded() -> None:
    fresh = frozenset({("attention.logits", "kv.keys"), ("kv.keys", "attention.key_rotated")})
    assert fresh in edges("attention.logits", shown("bfloat16"))


def test_in_float32_nothing_is_kept_back_but_of_a_quantised_cache() -> None:
    assert not edges("attention.logits", shown("float32"))
    quantised = shown("float32", quantised={"*.kv.*": "int8"})
    assert edges("attention.logits", quantised) == {frozenset({("attention.logits", "kv.keys")})}


def test_neither_caches_nor_chosen_experts_are_carried() -> None:
    told = [shown("bfloat16")]
    assert carriable("moe.norm", told)
    assert not carriable("kv.keys", told)
    assert not carriable("moe.expert_index", told)
