from __future__ import annotations

import pytest

from grok_conformance.harness.cases.suite import CASES
from grok_conformance.harness.contract import tap_specs
from grok_conformance.harness.faults import ALL_FAULTS, FAULTS, Fault, faults_at
from grok_conformance.harness.graph.grok_1 import OPERATIONS
from grok_conformance.harness.judging.coverage import TRIGGERS
from tests.harness.faults.mutants import cases_of

DTYPES_JUDGED = ("float32", "bfloat16")

CATALOGUE = set(
    """
gates_renormalised softmax_after_top_k router_logits_capped router_in_bf16 router_tf32 top_1_only top_k_off_by_one
top_k_tie_highest_index experts_permuted expert_dropped_by_capacity up_gate_swapped expert_transposed gelu_erf
gelu_quick silu_for_gelu relu_glu expert_hidden_bf16 attention_cap_missing attention_cap_hard attention_cap_50
cap_after_mask attention_scale_missing attention_scale_double softmax_bf16 mask_strict mask_absent padding_attended
gqa_tiled gqa_strided rope_interleaved rope_base_wrong rope_sign rope_key_only rope_on_value rope_position_bf16
rope_position_tf32 rope_cos_sin_bf16 decode_position_zero decode_position_plus_one step_bumped_by_layer_0
left_pad_positions_shared cache_unrotated_keys cache_fp8_scale_dropped prefill_bucket_leak
embedding_multiplier_missing embedding_multiplier_sqrt_d output_multiplier_missing head_untied norms_exchanged
norm_scale_plus_one norm_eps_1e6 norm_mean_subtracted post_norm_missing residual_from_normed
scales_per_shard_broadcast scales_interleaved scales_axis_swapped int8_as_uint8 all_reduce_missing
weights_two_layers_exchanged split_k_nondeterministic
""".split()  # noqa: SIM905 - sixty words read better so
)
"""Every id of the fault catalogue."""


def test_the_table_holds_the_whole_catalogue() -> None:
    assert set(FAULTS) >= CATALOGUE
    assert set(FAULTS) - CATALOGUE == {"attention_multiplier_on_output", "gelu_fp16_table"}


@pytest.mark.parametrize("fault", ALL_FAULTS.values(), ids=lambda fault: fault.id)
def test_a_row_is_complete_and_refers_to_what_exists(fault: Fault) -> None:
    assert fault.changes or fault.harmless
    assert set(fault.changes) <= {row.name for row in OPERATIONS}
    assert set(fault.operations) <= {spec.operation for spec in tap_specs()}
    assert all(next(cases_of(pattern, dtype), None) for pattern in fault.shown_by for dtype in DTYPES_JUDGED)
    assert fault.trigger is None or fault.trigger[0] in {trigger.name for trigger in TRIGGERS}
    assert all((fault.title, fault.explanation.endswith("."), fault.provenance))


def test_what_the_suite_says_its_cases_detect_is_in_the_table() -> None:
    assert {name for row in CASES for name in row.detects} <= set(FAULTS)


def test_faults_at_an_operation_are_those_that_change_it() -> None:
    assert {fault.id for fault in faults_at("moe.expert_gate")} == {"gates_renormalised", "softmax_after_top_k"}


def test_every_fault_says_in_one_plain_sentence_what_to_change() -> None:
    for fault in ALL_FAULTS.values():
        assert 10 < len(fault.remedy) <= 110, fault.id
        assert fault.remedy != fault.title
        assert not fault.remedy.endswith(".")
