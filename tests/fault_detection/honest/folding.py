"""Constants folded into the next matrix when the weights are loaded: gains, the attention multiplier, the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import model, operations, parameters
from grok_conformance.harness.contract import LanguageModelConfig
from tests.fault_detection.honest.attention import scores
from tests.fault_detection.honest.experts import tanh_gelu
from tests.fault_detection.honest.products import BF16, bf16
from tests.fault_detection.honest.way import Way, narrow

Params = parameters.Params
Fold = Callable[[LanguageModelConfig, Params], Params]

original_forward, original_rms_norm = model.forward, operations.rms_norm


def folded(fold: Fold) -> Callable[..., model.Memory]:
    """Return a forward pass with other parameters than the stored ones."""

    def forward(config: LanguageModelConfig, params: Params, *others: Any) -> model.Memory:
        return original_forward(config, fold(config, params), *others)

    return forward


def scaled_rows(params: Params, name: str, gain: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield a matrix [.., k, n] whose rows are multiplied by a gain [k] and rounded to the dtype that it had."""
    matrix = parameters.matrix(params, name)
    yield name, (matrix.float() * gain[..., :, None]).to(matrix.dtype)


def without_stored(params: Params, new: Mapping[str, Tensor]) -> Params:
    """Return the parameters with some matrices exchanged for plain ones."""
    stored = {f"{name}.{part}" for name in new for part in ("weight", "scales")}
    return {**{name: value for name, value in params.items() if name not in stored}, **new}


def gains_folded(config: LanguageModelConfig, params: Params) -> Params:
    """Fold the gains of the norms before attention and before the experts into the matrices that read them."""
    new: dict[str, Tensor] = {}
    for layer in range(config.model.num_layers):
        path = f"transformer/decoder_layer_{layer}"
        experts = ("linear/w", "linear_v/w") if config.dense else ("moe/linear/w", "moe/linear_v/w", "router/w")
        attention = tuple(f"multi_head_attention/{name}/w" for name in ("query", "key", "value"))
        for norm, names in (("rms_norm", attention), ("rms_norm_2", experts)):
            gain = params[f"{path}/{norm}/scale"]
            new[f"{path}/{norm}/scale"] = torch.ones_like(gain)
            for name in names:
                new |= scaled_rows(params, f"{path}/{name}", gain)
    return without_stored(params, new)


def multiplier_folded(config: LanguageModelConfig, params: Params) -> Params:
    """Fold the attention multiplier into the matrices of the queries."""
    new: dict[str, Tensor] = {}
    for layer in range(config.model.num_layers):
        name = f"transformer/decoder_layer_{layer}/multi_head_attention/query/w"
        new |= scaled_rows(params, name, torch.tensor([config.model.attn_output_multiplier]))
    return without_stored(params, new)


def unscaled(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    del multiplier
    return scores(query, keys)


def head_gain_folded() -> dict[str, Any]:
    """Return the replacements that fold the last norm's gain into a table of the head's own."""
    path = "language_model/rms_norm/scale"
    heads: list[Tensor] = []

    def fold(config: LanguageModelConfig, params: Params) -> Params:
        del config
        table = params["language_model/in_out_embed/embeddings"]
        heads[:] = [(table.float() * params[path]).to(table.dtype)]
        return {**params, path: torch.ones_like(params[path])}

    def unembed(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
        del table
        return operations.linear(hidden, heads[0].T) * torch.tensor(multiplier, dtype=hidden.dtype)

    return {"model": {"forward": folded(fold)}, "operations": {"unembed": unembed}, "hides": ("final_norm",)}


def gate_on_hidden() -> dict[str, Any]:
    """Return the replacements of kernels that multiply the gate into the hidden, before the second product."""
    gates: list[Tensor] = []

    def top_k(probabilities: Tensor, num_selected_experts: int) -> tuple[Tensor, Tensor]:
        index, gate = original_top_k(probabilities, num_selected_experts)
        gates[:] = [gate]
        return index, gate

    def run_experts(params: Params, path: str, x: Tensor, index: Tensor, num_experts: int) -> model.ExpertValues:
        made = original_run_experts(params, path, x, index, num_experts)
        hidden = tanh_gelu(made.activation.float()) * made.up.float() * gates[0][..., None]
        hidden = bf16(hidden) if narrow(x) else hidden
        output = torch.zeros_like(made.output)
        for expert in range(num_experts):
            matrix = parameters.matrix(params, f"{path}/linear_1/w", expert)
            output = torch.where((index == expert)[..., None], hidden @ matrix.float(), output)
        return made._replace(output=output)

    def combine_experts(outputs: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
        del gate
        return outputs.sum(-2).to(dtype)

    return {
        "operations": {"top_k": top_k, "combine_experts": combine_experts},
        "model": {"run_experts": run_experts},
        "hides": ("moe.expert_hidden", "moe.expert_output"),
    }


def gate_on_input() -> dict[str, Any]:
    """Return the replacement that multiplies the gate into the experts' input, as Llama 4 does: another function."""
    gates: list[Tensor] = []

    def top_k(probabilities: Tensor, num_selected_experts: int) -> tuple[Tensor, Tensor]:
        index, gate = original_top_k(probabilities, num_selected_experts)
        gates[:] = [gate]
        return index, gate

    def run_experts(params: Params, path: str, x: Tensor, index: Tensor, num_experts: int) -> model.ExpertValues:
        ranks = [
            original_run_experts(params, path, (x.float() * gates[0][..., c, None]).to(x.dtype), one, num_experts)
            for c, one in enumerate(torch.split(index, 1, -1))
        ]
        return model.ExpertValues(*(torch.cat(parts, -2) for parts in zip(*ranks, strict=True)))

    def combine_experts(outputs: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
        del gate
        return outputs.sum(-2).to(dtype)

    return {
        "operations": {"top_k": top_k, "combine_experts": combine_experts},
        "model": {"run_experts": run_experts},
    }


original_top_k, original_run_experts = operations.top_k, model.run_experts

NORMS_BEFORE = ("attention.norm", "moe.norm")
QUERIES = ("attention.query", "attention.query_rotated")

WAYS = (
    Way(id="norm_folded", engines="ONNX Runtime, llm-compressor", dtypes=BF16, hides=NORMS_BEFORE,
        does="gains folded into q, k, v, experts and router; the two norms hidden",
        model={"forward": folded(gains_folded)},
        plan=("attention.query", "attention.key", "attention.value", "moe.expert_activation", "moe.expert_up",
              "dense.activation", "dense.up"), untold=True),
    Way(id="query_folded", engines="TensorRT-LLM converters", hides=QUERIES, dtypes=BF16,
        does="the attention multiplier folded into the queries' matrix; queries hidden",
        model={"forward": folded(multiplier_folded)}, operations={"attention_logits": unscaled},
        plan=("attention.logits",), untold=True),
    Way(id="head_gain_folded", engines="QuaRot, SpinQuant", dtypes=BF16, **head_gain_folded(), plan=("logits",),
        untold=True,        does="the last norm's gain folded into the head's table; the norm hidden"),
    Way(id="moe_gate_on_hidden", engines="TensorRT-LLM, DeepGEMM", dtypes=BF16, **gate_on_hidden(),
        plan=("moe.output",),
        does="the gate multiplied into the hidden before it is rounded; hidden and output not shown"),
    Way(id="gate_on_input", mark="wrong", engines="Llama 4's layer reused", **gate_on_input(),
        does="the gate multiplied into the experts' input", fault="gate_on_input"),
)  # fmt: skip
