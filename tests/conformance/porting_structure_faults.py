"""Faults of how a port is put together: its attention block, its layers, its cache, its loader, its shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import model, operations, parameters
from grok_conformance.candidates.torch_eager.model import ExpertValues, KVMemory, Memory, Tap
from grok_conformance.candidates.torch_eager.parameters import Params
from grok_conformance.harness.contract import LanguageModelConfig, TransformerConfig, Weights
from tests.conformance.port_patch import Fault, fault

PREFILL = "unequal/prefill/padded_batch.*"
DECODE = "unequal/decode/unequal_lengths.*"
REALISTIC = "realistic/prefill/near_ties.*"

MATRIX, EXPERT, RUN_EXPERTS = parameters.matrix, model.expert, model.run_experts
FORWARD, LAYER, ADVANCE, LOAD = model.forward, model.decoder_layer, model.advance, parameters.load_params

Positions = Callable[[Tensor, str], Tensor]


def attention_of_a_port(
    *,
    rotates_queries: bool = True,
    rotates_values: bool = False,
    caches_rotated: bool = True,
    multiplies_output: bool = False,
    rope_positions: Positions = lambda positions, _path: positions,
) -> Callable[..., tuple[Tensor, KVMemory]]:
    """Return an attention block that was written with some misunderstandings."""

    def attention(
        config: TransformerConfig, params: Params, path: str, x: Tensor, mask_in: Tensor, memory: KVMemory, tap: Tap
    ) -> tuple[Tensor, KVMemory]:
        def heads(name: str, num_heads: int) -> Tensor:
            projected = operations.linear(x, MATRIX(params, f"{path}/{name}/w"))
            return tap(f"attention.{name}", operations.split_heads(projected, num_heads))

        query, key = heads("query", config.num_q_heads), heads("key", config.num_kv_heads)
        value = heads("value", config.num_kv_heads)
        positions = operations.query_positions(memory.step, x.shape[1])
        turned = rope_positions(positions, path)
        rotated = tap("attention.query_rotated", operations.rotate(query, turned) if rotates_queries else query)
        key_rotated = tap("attention.key_rotated", operations.rotate(key, turned))
        if rotates_values:
            value = operations.rotate(value, turned)
        cached = key_rotated if caches_rotated else key
        keys = tap("kv.keys", operations.update_cache(memory.k, cached, positions))
        values = tap("kv.values", operations.update_cache(memory.v, value, positions))
        used = keys
        if not caches_rotated:
            slots = torch.arange(keys.shape[1])[None].expand(len(keys), -1)
            used = operations.rotate(keys, slots)
        logits = operations.attention_logits(rotated, used, config.attn_output_multiplier)
        logits = tap("attention.logits", operations.cap_logits(logits))
        visible = operations.visible_keys(mask_in, positions, keys.shape[1])
        masked = operations.mask_logits(logits, visible, operations.attended_slots(positions, keys.shape[1]))
        weights = tap("attention.weights", operations.attention_weights(masked, x.dtype))
        averaged = tap("attention.heads", operations.attention_heads(weights, values))
        output = operations.linear(averaged.flatten(2), MATRIX(params, f"{path}/linear/w"))
        if multiplies_output:
            output = output * config.attn_output_multiplier
        return tap("attention.output", output), replace(memory, k=keys, v=values)

    return attention


def ahead_after_layer_0(positions: Tensor, path: str) -> Tensor:
    started = positions[:, :1] > 0
    return positions if "decoder_layer_0/" in path else positions + started


def layer_without_post_norms(
    config: TransformerConfig, params: Params, path: str, x: Tensor, mask_in: Tensor, memory: KVMemory, tap: Tap
) -> tuple[Tensor, KVMemory]:
    norm = tap("attention.norm", operations.rms_norm(x, params[f"{path}/rms_norm/scale"]))
    output, memory = model.attention(config, params, f"{path}/multi_head_attention", norm, mask_in, memory, tap)
    tap("attention.output_norm", operations.rms_norm(output, params[f"{path}/rms_norm_1/scale"]))
    x = tap("attention.residual", x + output)
    norm = tap("moe.norm", operations.rms_norm(x, params[f"{path}/rms_norm_2/scale"]))
    output = tap("moe.output", model.moe_block(config, params, path, norm, tap))
    tap("moe.output_norm", operations.rms_norm(output, params[f"{path}/rms_norm_3/scale"]))
    return tap("output", x + output), memory


def layer_around_the_norms(
    config: TransformerConfig, params: Params, path: str, x: Tensor, mask_in: Tensor, memory: KVMemory, tap: Tap
) -> tuple[Tensor, KVMemory]:
    x = tap("attention.norm", operations.rms_norm(x, params[f"{path}/rms_norm/scale"]))
    output, memory = model.attention(config, params, f"{path}/multi_head_attention", x, mask_in, memory, tap)
    update = tap("attention.output_norm", operations.rms_norm(output, params[f"{path}/rms_norm_1/scale"]))
    x = tap("attention.residual", operations.residual(x, update))
    x = tap("moe.norm", operations.rms_norm(x, params[f"{path}/rms_norm_2/scale"]))
    output = tap("moe.output", model.moe_block(config, params, path, x, tap))
    update = tap("moe.output_norm", operations.rms_norm(output, params[f"{path}/rms_norm_3/scale"]))
    return tap("output", operations.residual(x, update)), memory


def advance_one_too_far(memory: Memory, lengths: Tensor) -> Memory:
    first = all(bool((cache.step == 0).all()) for cache in memory)
    return ADVANCE(memory, lengths + 1 if first else lengths)


def bucket_end_logits(config: LanguageModelConfig, params: Params, tokens: Tensor, memory: Memory, tap: Tap) -> Memory:
    rows = torch.arange(len(tokens))
    last = (tokens > config.pad_token).sum(-1) - 1  # prompts are padded on the right

    def leaking(name: str, value: Tensor) -> Tensor:
        if name != "logits":
            return tap(name, value)
        leaked = value.clone()
        leaked[rows, last] = value[:, -1]
        return tap(name, leaked)

    return FORWARD(config, params, tokens, memory, leaking)


def shifted_expert(params: Params, path: str, index: int, x: Tensor) -> ExpertValues:
    num_experts = parameters.matrix(params, f"{path.removesuffix('/moe')}/router/w").shape[-1]
    return EXPERT(params, path, (index + 1) % num_experts, x)


def experts_with_capacity(params: Params, path: str, x: Tensor, index: Tensor, num_experts: int) -> ExpertValues:
    values = RUN_EXPERTS(params, path, x, index, num_experts)
    chosen = torch.nn.functional.one_hot(index.flatten(), num_experts)
    place = ((chosen.cumsum(0) - 1) * chosen).sum(-1).reshape(index.shape)
    capacity = int(1.0 * index.numel() / num_experts)
    return values._replace(output=values.output * (place < capacity)[..., None])


def transposed_down(params: Params, name: str, expert: int | None = None) -> Tensor:
    matrix = MATRIX(params, name, expert)
    return matrix.reshape(matrix.shape[::-1]).T if name.endswith("moe/linear_1/w") else matrix


def first_shard_only(params: Params, name: str, expert: int | None = None) -> Tensor:
    matrix = MATRIX(params, name, expert).clone()
    if name.endswith(("linear_1/w", "multi_head_attention/linear/w")):
        matrix[len(matrix) // 2 :] = 0  # the other shard's product is never added
    return matrix


def loaded(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Mapping[str, object]:
    def load_params(config: LanguageModelConfig, weights: Weights) -> Params:
        return change(dict(LOAD(config, weights)))

    return {"load_params": load_params}


def with_norms_exchanged(params: dict[str, Tensor]) -> dict[str, Tensor]:
    other = {"rms_norm_1": "rms_norm_2", "rms_norm_2": "rms_norm_1"}
    return {"/".join(other.get(part, part) for part in name.split("/")): tensor for name, tensor in params.items()}


def with_layers_exchanged(params: dict[str, Tensor]) -> dict[str, Tensor]:
    other = {"decoder_layer_0": "decoder_layer_1", "decoder_layer_1": "decoder_layer_0"}
    return {"/".join(other.get(part, part) for part in name.split("/")): tensor for name, tensor in params.items()}


def with_groups_first(params: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, scales in params.items():
        if name.endswith("moe/linear_1/w.scales"):
            num_experts, num_groups, d = scales.shape
            params[name] = scales.reshape(num_groups, num_experts, d).transpose(0, 1)
    return params


def in_attention(at: str, cases: str, **misunderstandings: object) -> Fault:
    return fault(at, cases, model={"attention": attention_of_a_port(**misunderstandings)})  # type: ignore[arg-type] # flags


ROTATIONS = "attention.query_rotated attention.key_rotated"

STRUCTURAL_FAULTS: Mapping[str, Fault] = {
    "rope_key_only": in_attention("attention.query_rotated", PREFILL, rotates_queries=False),
    "rope_on_value": in_attention("kv.values", PREFILL, rotates_values=True),
    "cache_unrotated_keys": in_attention("kv.keys attention.logits", PREFILL, caches_rotated=False),
    "attention_multiplier_on_output": in_attention("attention.output", PREFILL, multiplies_output=True),
    "step_bumped_by_layer_0": in_attention(ROTATIONS, DECODE, rope_positions=ahead_after_layer_0),
    "decode_position_plus_one": fault(
        f"{ROTATIONS} kv.keys kv.values attention.weights", DECODE, model={"advance": advance_one_too_far}
    ),
    "post_norm_missing": fault(
        "attention.residual output", REALISTIC, model={"decoder_layer": layer_without_post_norms}
    ),
    "residual_from_normed": fault(
        "attention.residual output", PREFILL, model={"decoder_layer": layer_around_the_norms}
    ),
    "prefill_bucket_leak": fault("logits", PREFILL, model={"forward": bucket_end_logits}),
    "experts_permuted": fault(
        "moe.expert_activation moe.expert_up moe.expert_output", PREFILL, model={"expert": shifted_expert}
    ),
    "expert_dropped_by_capacity": fault(
        "moe.expert_output", PREFILL, model={"run_experts": experts_with_capacity}
    ),
    "expert_transposed": fault("moe.expert_output", PREFILL, model={"matrix": transposed_down}),
    "all_reduce_missing": fault(
        "attention.output moe.expert_output", PREFILL, model={"matrix": first_shard_only}
    ),
    "norms_exchanged": fault(
        "attention.output_norm moe.norm", REALISTIC, package=loaded(with_norms_exchanged)
    ),
    "weights_two_layers_exchanged": fault(
        "attention.norm attention.query attention.key attention.value attention.output attention.output_norm moe.norm "
        "router.logits moe.expert_activation moe.expert_up moe.expert_output moe.output_norm",
        PREFILL, package=loaded(with_layers_exchanged),
    ),
    "scales_axis_swapped": fault("moe.expert_output", PREFILL, package=loaded(with_groups_first)),
}  # fmt: skip
