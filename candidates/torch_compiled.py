"""The torch port compiled by inductor for the CPU: what surrounds the experts is fused.

Weights are dequantised once, at load; experts' in every call, tile by tile, where all of them wide would take too much
memory. The functions are those of `torch_eager`; the compiler is told to round wherever eager execution does. The
experts stay eager: their shapes depend on the data, and they are products that a library does best. One token is
another matter: all is then bound by reading weights, which are read as int8, and a whole layer is one program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import model as eager
from grok_conformance.candidates.torch_eager import operations
from grok_conformance.candidates.torch_eager.parameters import (
    Params,
    check_config,
    load_params,
    matrix,
    to_numpy,
    to_torch,
)
from grok_conformance.harness.contract import (
    Array,
    CandidateInfo,
    LanguageModelConfig,
    TransformerConfig,
    Weights,
    select_taps,
    split_tap,
    tap_name,
    tap_names,
)

__all__ = ["INFO", "load"]

INFO = CandidateInfo(name="torch_compiled", version=str(torch.__version__))

OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "emulate_precision_casts": True,
    "realize_reads_threshold": 0,
}
"""Values that are fused keep every cast to bf16, and what several values are made of is computed once, not for each."""

MAX_PROGRAMS = 256
"""Programs that one function may be compiled into: beyond its limit torch would silently run eagerly."""

ONE_TOKEN = (1, 1)
"""The axes b and t of what is bound by reading weights."""

COLUMNS = (".columns", ".column_scales")
"""What the names of int8 values, a column after the other, and of their scales end with: one token reads these."""

MAX_WIDE_BYTES = 4 << 30
"""Of a model's experts kept wide beside their int8 values."""

TILE_WEIGHTS = 6 << 20
"""Of a matrix that is widened while it is multiplied: for fewer, calling a library takes longer than reading them."""

LANES = 32
"""Sums that go on side by side in one token's products: a processor need not wait for each addition."""

project_dequantized = eager.project
project_dequantized_expert = eager.project_expert
run_dequantized_experts = torch.compiler.disable(eager.run_experts)  # type: ignore[no-untyped-call]


def project(params: Params, name: str, x: Tensor) -> Tensor:
    """Multiply x [b, t, k] by a stored matrix [k, n] in the dtype of x, one token by int8 (SPEC §3, §4.4)."""
    if x.shape[:2] != ONE_TOKEN or f"{name}.columns" not in params:
        return project_dequantized(params, name, x)
    return product_with_int8(x.float(), *(params[f"{name}{kind}"] for kind in COLUMNS)).to(x.dtype)


def run_experts(params: Params, path: str, x: Tensor, index: Tensor, num_experts: int) -> eager.ExpertValues:
    """Run each token of x [b, t, d] through its experts index [b, t, c]; the values are [b, t, c, ..] (SPEC §4.6)."""
    names = [f"{path}/{name}/w" for name in ("linear", "linear_v", "linear_1")]
    if x.shape[:2] != ONE_TOKEN or not params.keys() >= {f"{name}.columns" for name in names}:
        values: eager.ExpertValues = run_dequantized_experts(params, path, x, index, num_experts)
        return values
    chosen = index[0, 0]  # [c]
    linear, linear_v, linear_1 = ([params[f"{name}{kind}"][chosen] for kind in COLUMNS] for name in names)
    dtype = torch.promote_types(x.dtype, linear[1].dtype)
    token = x[0].float()  # [1, d]
    activation, up = (product_with_int8(token, *stored).to(dtype) for stored in (linear, linear_v))  # [c, f]
    hidden = operations.gated_hidden(activation.float(), up.float())  # [c, f]
    output = product_with_int8(hidden, *linear_1)  # [c, d]
    return eager.ExpertValues(*(value[None, None] for value in (activation, up, hidden, output)))


def product_with_int8(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Multiply float32 x [.., k] by int8 [.., n, k]: sums of each group, times its scales [.., G, n] (SPEC §3)."""
    num_groups, k = scales.shape[-2], x.shape[-1]
    sizes = (num_groups, -1, LANES if k // num_groups % LANES == 0 else 1)
    groups = torch.unflatten(weight, -1, sizes).float()  # [.., n, G, k / G / lanes, lanes]
    parts = torch.unflatten(x, -1, sizes).unsqueeze(-4)
    return ((groups * parts).sum(-2).sum(-1) * scales.mT).sum(-1)


def project_expert(params: Params, name: str, index: int, x: Tensor) -> Tensor:
    """Multiply x [n, k] by one expert's stored matrix [k, m], from int8 if it is not kept wide (SPEC §3, §4.6)."""
    if name in params or f"{name}.columns" not in params:
        return project_dequantized_expert(params, name, index, x)
    return product_in_tiles(x, *(params[f"{name}{kind}"][index] for kind in COLUMNS))


def product_in_tiles(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Multiply x [n, k] by int8 [m, k] with scales [G, m], in the wider dtype of x and the scales (SPEC §3, §4.6)."""
    dtype, step = torch.promote_types(x.dtype, scales.dtype), max(1, TILE_WEIGHTS // weight.shape[1])
    wide, x = torch.empty(step, weight.shape[1], dtype=dtype), x.to(dtype)
    outputs = []
    for stored in zip(torch.split(weight, step), torch.split(scales, step, dim=-1), strict=True):
        tile = wide[: len(stored[0])]  # memory that is taken anew for each tile would be cleared for each
        compiled_widen()(tile, *stored)
        outputs.append(x @ tile.mT)
    return torch.cat(outputs, dim=-1)


@functools.cache
def compiled_widen() -> Callable[..., None]:
    """Return `widen`, compiled for each size of a tile."""
    compiled: Callable[..., None] = torch.compile(widen, options=OPTIONS, dynamic=False)
    return compiled


def widen(tile: Tensor, weight: Tensor, scales: Tensor) -> None:
    """Dequantize int8 [m, k] by scales [G, m] in the scales' dtype into a tile [m, k] of another one (SPEC §3)."""
    groups = torch.unflatten(weight, -1, (len(scales), -1)).float()  # [m, G, k / G]
    tile.copy_((groups * scales.float().mT.unsqueeze(-1)).to(scales.dtype).flatten(-2))


# Not in the eager port itself, which would import the whole compiler with it.
eager.project = project
eager.project_expert = project_expert
eager.run_experts = run_experts


def load(config: LanguageModelConfig, weights: Weights) -> CompiledModel:
    """Return a model with the stored weights (SPEC §2), dequantized; float32 products are pinned to full precision.

    Raises Unsupported for a compute dtype other than float32 and bfloat16, ValueError for a configuration or weights
    that cannot be run.
    """
    check_config(config)
    torch.set_float32_matmul_precision("highest")
    torch._dynamo.config.recompile_limit = MAX_PROGRAMS  # noqa: SLF001 - there is no public name
    torch._dynamo.config.accumulated_recompile_limit = MAX_PROGRAMS  # noqa: SLF001 - likewise
    return CompiledModel(config, dequantized(load_params(config, weights)))


def dequantized(params: Params) -> Params:
    """Return the parameters with int8 matrices multiplied out, each in the dtype in which its product is taken.

    The int8 values stay as well, a column after the other, as one token reads them; of experts that would take more
    than MAX_WIDE_BYTES they alone.
    """
    int8 = [name.removesuffix(".weight") for name in params if name.endswith(".weight")]
    columns = {f"{name}.columns": params[f"{name}.weight"].mT.contiguous() for name in int8}
    columns |= {f"{name}.column_scales": params[f"{name}.scales"] for name in int8}
    stored_only = [name for name in int8 if "/moe/" in name] if wide_expert_bytes(params) > MAX_WIDE_BYTES else []
    names = {name.removesuffix(".weight").removesuffix(".scales") for name in params}.difference(stored_only)
    made = {name: matrix(params, name) for name in sorted(names)}
    return {name: w.float() if name.endswith("moe/linear_1/w") else w for name, w in made.items()} | columns


def wide_expert_bytes(params: Params) -> int:
    """Return the bytes of all experts' int8 matrices multiplied out."""
    experts = [name.removesuffix(".weight") for name in params if name.endswith(".weight") and "/moe/" in name]
    sizes = {name: 4 if name.endswith("moe/linear_1/w") else params[f"{name}.scales"].itemsize for name in experts}
    return sum(size * params[f"{name}.weight"].numel() for name, size in sizes.items())


def run_layer(
    config: TransformerConfig,
    params: Params,
    x: Tensor,
    mask_in: Tensor,
    memory: eager.KVMemory,
    wanted: frozenset[str],
) -> tuple[Tensor, eager.KVMemory, Mapping[str, Tensor]]:
    """Return the residual stream [b, t, d] after a layer, its new cache, and the wanted values by operation."""
    values: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        if name in wanted:
            values[name] = value
        return value

    x, memory = eager.decoder_layer(config, params, "", x, mask_in, memory, tap)
    return x, memory, values


class CompiledModel(eager.TorchModel):
    """The torch port with its layers compiled: one program serves all layers of a model, another one single tokens."""

    def __init__(self, config: LanguageModelConfig, params: Params) -> None:
        """Keep the parameters; nothing is compiled before it is called."""
        super().__init__(config, params)
        self.run_layer = torch.compile(run_layer, options=OPTIONS)
        self.run_layer_on_token = torch.compile(run_layer, options=OPTIONS, dynamic=False)

    def loaded_weights(self) -> dict[str, Array]:
        """Return the parameters as they are multiplied, by stored name; int8 of what is not kept wide (SPEC §2)."""
        wide = {name: to_numpy(parameter) for name, parameter in self.params.items() if not name.endswith(COLUMNS)}
        for name in (name.removesuffix(".columns") for name in self.params if name.endswith(".columns")):
            if name not in wide:
                wide |= {f"{name}.weight": to_numpy(self.params[f"{name}.columns"].mT)}
                wide |= {f"{name}.scales": to_numpy(self.params[f"{name}.column_scales"])}
        return wide

    def _run(self, tokens: Array, lengths: Array, memory: eager.Memory, taps: Collection[str]) -> dict[str, Array]:
        config, ids = self.config, to_torch(tokens).to(torch.int64)
        run = self.run_layer_on_token if tokens.shape == ONE_TOKEN else self.run_layer
        eager.check_call(config, tokens, lengths, memory)
        wanted = select_taps(tap_names(config), taps)
        table = self.params["language_model/in_out_embed/embeddings"]
        x = operations.embed(table, ids, config.embedding_multiplier_scale)  # [b, t, d]
        values, updated = {"embedding": x}, []
        for layer, cache in enumerate(memory):
            path = f"transformer/decoder_layer_{layer}"
            params = {name.removeprefix(path): w for name, w in self.params.items() if name.startswith(f"{path}/")}
            names = frozenset(name for index, name in map(split_tap, wanted) if index == layer)
            x, new_cache, made = run(config.model, params, x, ids > config.pad_token, cache, names)
            values |= {tap_name(layer, name): value for name, value in made.items()}
            updated.append(new_cache)
        values["final_norm"] = operations.rms_norm(x, self.params["language_model/rms_norm/scale"])
        values["logits"] = operations.unembed(values["final_norm"], table, config.output_multiplier_scale)  # [b, t, v]
        self.memory = eager.advance(tuple(updated), to_torch(lengths).to(torch.int64))
        return {name: to_numpy(values[name]) for name in wanted}
