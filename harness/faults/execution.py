"""Faults of how the work is laid out: shards, capacity, order."""

from __future__ import annotations

from grok_conformance.harness.faults import functions
from grok_conformance.harness.faults.fault import Change, Fault
from grok_conformance.harness.graph.operations import attention, experts

FAULTS = (
    Fault(
        id="expert_dropped_by_capacity",
        kind="execution",
        title="tokens beyond an expert's capacity are dropped",
        remedy="let every token reach both of its experts: no capacity limit",
        explanation="Every token is computed by all of its experts, however many others chose them.",
        provenance="Megatron-LM#5542",
        changes={"moe.expert_output": Change(function=functions.over_capacity_dropped)},
    ),
    Fault(
        id="all_reduce_missing",
        kind="execution",
        title="the partial sum of one shard of two is taken for the whole",
        remedy="sum the partial products of all shards (all-reduce) before they are used",
        explanation="Row-parallel products are summed over the model axis.",
        provenance="tpu-inference#3435",
        changes={
            "attention.output": Change(function=functions.first_half(attention.project_output)),
            "moe.expert_output": Change(function=functions.first_half(experts.expert_out)),
            "dense.output": Change(function=functions.first_half(experts.dense_in)),
        },
    ),
    Fault(
        id="split_k_nondeterministic",
        kind="execution",
        title="sums are taken in another order in every run",
        remedy="nothing: sums in any order are allowed; a fixed order makes runs repeatable",
        explanation=(
            "Any order of a float32 sum is honest; whether two runs agree bit for bit is reported as repeatability."
        ),
        provenance="sglang#38337",
        harmless=True,
    ),
)
