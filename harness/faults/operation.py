"""Faults of one operation outside attention: another function, other inputs, another constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from grok_conformance.harness.contract import Array
from grok_conformance.harness.faults import functions
from grok_conformance.harness.faults.fault import Change, Fault, changes_at
from grok_conformance.harness.graph.operations import router
from grok_conformance.harness.graph.row import Scope

NORMS = ("attention.norm", "attention.output_norm", "moe.norm", "moe.output_norm", "final_norm")

STRESS = ("stress/prefill/saturated_cap.*",)
NEAR_TIES = ("realistic/prefill/near_ties.*",)


def with_output_multiplier(factor: Callable[[Scope], float]) -> Callable[[Scope], Scope]:
    """Return a change of the logits' multiplier."""
    return lambda scope: replace(scope, config=replace(scope.config, output_multiplier_scale=factor(scope)))


def with_embedding_multiplier(factor: Callable[[Scope], float]) -> Callable[[Scope], Scope]:
    """Return a change of the embedding's multiplier."""
    return lambda scope: replace(scope, config=replace(scope.config, embedding_multiplier_scale=factor(scope)))


def activated_by(activate: Callable[[Array], Array]) -> dict[str, Change]:
    """Return another activation in experts and dense blocks."""
    return {
        "moe.expert_hidden": Change(function=functions.hidden(activate)),
        "dense.hidden": Change(function=functions.dense_hidden(activate)),
    }


ROUTER = (
    Fault(
        id="gates_renormalised",
        kind="operation",
        title="the gates are divided by their sum",
        remedy="use the softmax probabilities of the chosen experts as they are: do not divide them by their sum",
        explanation=(
            "Grok-1 multiplies by the softmax probabilities of the chosen experts as they are; most other "
            "mixtures of experts renormalise them. A norm follows, so the logits hardly change."
        ),
        provenance="vLLM grok1.py, llama.cpp grok graph",
        changes=changes_at("moe.expert_gate", function=functions.renormalised_gate),
    ),
    Fault(
        id="softmax_after_top_k",
        kind="operation",
        title="the softmax runs over the chosen experts only",
        remedy="take the softmax over all experts first, and choose the top k of it afterwards",
        explanation=(
            "The softmax runs over all experts before the choice. Taken over the chosen logits it is the "
            "renormalised gate: no data can tell the two apart."
        ),
        provenance="EasyDeL grok_1",
        changes=changes_at("moe.expert_gate", function=functions.renormalised_gate),
        shown_by=NEAR_TIES,
    ),
    Fault(
        id="router_logits_capped",
        kind="operation",
        title="30·tanh(x/30) on the router logits",
        remedy="leave the cap out of the router: only attention logits are capped",
        explanation="Only attention logits are capped.",
        provenance="SGLang, vLLM grok",
        changes=changes_at("router.logits", function=functions.changed(router.router_logits, functions.cap)),
        shown_by=NEAR_TIES,
    ),
    Fault(
        id="router_in_bf16",
        kind="operation",
        title="the router runs in bf16",
        remedy="cast the router's input and weight to float32 before the product, and stay in float32 to the gates",
        explanation=(
            "Router weights, product and softmax are float32 whatever the compute dtype; in bf16 near-ties "
            "between experts are decided by rounding."
        ),
        provenance="sglang#33764, vllm#14027",
        changes=changes_at("router.logits", function=functions.router_logits_bf16),
        shown_by=NEAR_TIES,
    ),
    Fault(
        id="router_tf32",
        kind="operation",
        title="the router's operands are rounded to TF32",
        remedy="turn TF32 off for the router's product: ask for full float32 precision",
        explanation="The router's product needs full float32 precision; a backend's default may keep 10 mantissa bits.",
        provenance="TF32 default of GPUs",
        changes=changes_at("router.logits", function=functions.router_logits_tf32),
        shown_by=NEAR_TIES,
    ),
    Fault(
        id="top_1_only",
        kind="operation",
        title="one expert too few",
        remedy="choose num_selected_experts experts, and not one fewer",
        explanation="num_selected_experts experts are chosen; one fewer were shown.",
        provenance="fault catalogue",
        changes=changes_at("moe.expert_index", function=functions.chosen(lambda k: slice(0, k - 1))),
    ),
    Fault(
        id="top_k_off_by_one",
        kind="operation",
        title="the choice of experts starts at the second best",
        remedy="start the choice of experts at the most probable one",
        explanation="The k most probable experts are chosen, the most probable first.",
        provenance="fault catalogue",
        changes=changes_at("moe.expert_index", function=functions.chosen(lambda k: slice(1, k + 1))),
    ),
    Fault(
        id="top_k_tie_highest_index",
        kind="operation",
        title="ties between experts go to the highest index",
        remedy="let equal probabilities go to the lower expert id: sort stably by falling probability",
        explanation="Exactly equal probabilities are decided for the lowest index.",
        provenance="vllm#54403, pytorch#196177",
        changes=changes_at("moe.expert_index", function=functions.chosen(lambda k: slice(0, k), highest_first=True)),
        shown_by=("ties/prefill/tie_rule.*", "ties/prefill/exact_ties.*"),
    ),
)

EXPERTS = (
    Fault(
        id="up_gate_swapped",
        kind="operation",
        title="gelu is applied to linear_v instead of linear",
        remedy="apply gelu to x·linear, and multiply by x·linear_v as it is",
        explanation="The hidden value is gelu(x·linear) · (x·linear_v).",
        provenance="sglang#32430",
        changes={
            "moe.expert_hidden": Change(inputs=("moe.expert_up", "moe.expert_activation")),
            "dense.hidden": Change(inputs=("dense.up", "dense.activation")),
        },
    ),
    Fault(
        id="gelu_erf",
        kind="operation",
        title="gelu by the error function instead of its tanh approximation",
        remedy="use gelu's tanh approximation (torch: approximate='tanh', jax.nn.gelu: approximate=True)",
        explanation=(
            "Grok-1 uses the tanh approximation; the two differ by up to 5e-4, which the logits of a small model "
            "do not show."
        ),
        provenance="hpcai grok-1, vLLM",
        changes=activated_by(functions.gelu_erf),
        shown_by=STRESS,
    ),
    Fault(
        id="gelu_quick",
        kind="operation",
        title="x·sigmoid(1.702x) instead of gelu",
        remedy="replace x·sigmoid(1.702x) by gelu's tanh approximation",
        explanation="Grok-1 uses the tanh approximation of gelu.",
        provenance="fault catalogue",
        changes=activated_by(functions.gelu_quick),
        shown_by=STRESS,
    ),
    Fault(
        id="gelu_fp16_table",
        kind="operation",
        title="gelu is looked up in a table of float16 values",
        remedy="compute gelu in float32: do not look it up in a table of float16 values",
        explanation="gelu is computed in float32; a table of float16 keeps 11 bits of its argument and of its value.",
        provenance="ggml (llama.cpp), GGML_GELU_FP16",
        changes=changes_at("moe.expert_hidden", function=functions.gelu_fp16_table),
        shown_by=STRESS,
    ),
    Fault(
        id="silu_for_gelu",
        kind="operation",
        title="SiLU instead of gelu",
        remedy="replace SiLU by gelu's tanh approximation",
        explanation="Grok-1 uses the tanh approximation of gelu.",
        provenance="gpt-fast#171",
        changes=activated_by(functions.silu),
        shown_by=STRESS,
    ),
    Fault(
        id="relu_glu",
        kind="operation",
        title="the product with linear_v is left out",
        remedy="multiply gelu(x·linear) by x·linear_v",
        explanation="The hidden value is gelu(x·linear) · (x·linear_v), not gelu(x·linear) alone.",
        provenance="fault catalogue",
        changes=changes_at("moe.expert_hidden", "dense.hidden", function=functions.ungated),
    ),
    Fault(
        id="expert_hidden_bf16",
        kind="operation",
        title="the experts' hidden value is rounded to bf16",
        remedy="nothing where bf16 is computed, which the specification allows; under float32 round nothing",
        explanation="A permitted rounding of a bf16 port: noise, no fault.",
        provenance="fault catalogue",
        changes=changes_at("moe.expert_hidden", function=functions.hidden_bf16),
        harmless=True,
    ),
)

EMBEDDING = (
    Fault(
        id="embedding_multiplier_missing",
        kind="operation",
        title="the embedding is not multiplied by embedding_multiplier_scale",
        remedy="multiply the embedding by embedding_multiplier_scale",
        explanation="The looked-up embedding is multiplied by 78.38 (78.5 as bf16 holds it).",
        provenance="EasyDeL grok_1",
        changes=changes_at("embedding", scope=with_embedding_multiplier(lambda _: 1.0)),
    ),
    Fault(
        id="embedding_multiplier_sqrt_d",
        kind="operation",
        title="the embedding is multiplied by √d",
        remedy="multiply the embedding by embedding_multiplier_scale of the configuration, not by √d",
        explanation="It is multiplied by embedding_multiplier_scale; √d is Gemma's.",
        provenance="Gemma",
        changes=changes_at(
            "embedding", scope=with_embedding_multiplier(lambda scope: math.sqrt(scope.config.model.emb_size))
        ),
    ),
    Fault(
        id="output_multiplier_missing",
        kind="operation",
        title="the logits are not multiplied by output_multiplier_scale",
        remedy="multiply the logits by output_multiplier_scale",
        explanation="The logits are multiplied by 0.577 (0.578 as bf16 holds it).",
        provenance="fault catalogue",
        changes=changes_at("logits", scope=with_output_multiplier(lambda _: 1.0)),
    ),
)

NORM = (
    Fault(
        id="norm_scale_plus_one",
        kind="operation",
        title="the norms multiply by 1 + scale",
        remedy="multiply the normed value by scale, not by 1 + scale",
        explanation="They multiply by scale; 1 + scale is Gemma's.",
        provenance="Gemma",
        changes=changes_at(*NORMS, function=functions.norm_with(offset=1.0)),
    ),
    Fault(
        id="norm_eps_1e6",
        kind="operation",
        title="the norms' eps is 1e-6",
        remedy="set the eps of every norm to 1e-5",
        explanation="It is 1e-5, inside the square root: it shows only where the input is small.",
        provenance="tvm#15856, candle#271",
        changes=changes_at(*NORMS, function=functions.norm_with(1e-6)),
        shown_by=("*",),
    ),
    Fault(
        id="norm_mean_subtracted",
        kind="operation",
        title="LayerNorm for RMSNorm: the mean is subtracted",
        remedy="use RMSNorm: do not subtract the mean",
        explanation="The norm divides by the root mean square and subtracts nothing.",
        provenance="fault catalogue",
        changes=changes_at(*NORMS, function=functions.norm_with(centred=True)),
    ),
    Fault(
        id="post_norm_missing",
        kind="operation",
        title="a block's output is added to the residual stream before its norm",
        remedy="norm the block's output before it is added to the residual stream",
        explanation="rms_norm_1 and rms_norm_3 are applied to the block's output, then it is added.",
        provenance="fault catalogue",
        changes={
            "attention.residual": Change(inputs=("residual_stream", "attention.output")),
            "output": Change(inputs=("attention.residual", "moe.output")),
        },
        shown_by=NEAR_TIES,
    ),
    Fault(
        id="residual_from_normed",
        kind="operation",
        title="the residual is taken from the normed input",
        remedy="add the block's output to the stream as it was before the norm, not to the normed value",
        explanation="The stream itself is added to the block's output, not its norm.",
        provenance="fault catalogue",
        changes={
            "attention.residual": Change(inputs=("attention.norm", "attention.output_norm")),
            "output": Change(inputs=("moe.norm", "moe.output_norm")),
        },
    ),
)

FAULTS = (*ROUTER, *EXPERTS, *EMBEDDING, *NORM)
