"""Ways to read what a tap shows rounded before it was rounded, and to embed and score tokens with wider constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations, parameters
from tests.fault_detection.honest.attention import scores
from tests.fault_detection.honest.norms import inverse
from tests.fault_detection.honest.products import BF16, ROW_PARALLEL, bf16, named
from tests.fault_detection.honest.way import Way, narrow


def with_wide(made: Tensor, wide: Tensor) -> Tensor:
    """Return a rounded value that remembers what it was before."""
    made.wide = wide  # type: ignore[attr-defined]
    return made


def wide_of(x: Tensor) -> Tensor:
    """Return what a value was before it was rounded, if it remembers."""
    wide: Tensor = getattr(x, "wide", x.float())
    return wide


def normed(x: Tensor, scale: Tensor) -> Tensor:
    wide = wide_of(x)
    made: Tensor = wide * inverse(wide) * scale
    return with_wide(made.to(x.dtype), made) if narrow(x) else made


def remembering(*places: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a product with some matrices whose result remembers its float32 sums."""

    def linear(x: Tensor, weight: Tensor) -> Tensor:
        made = original_linear(x, weight)
        if narrow(x) and str(getattr(weight, "stored_name", "")).endswith(places):
            return with_wide(made, x.float() @ weight.to(x.dtype).float())
        return made

    return linear


def rotation_of_unrounded() -> dict[str, Any]:
    """Return the replacements of a kernel that rotates q and k in the epilogue of their product."""

    def split_heads(x: Tensor, num_heads: int) -> Tensor:
        made = original_split(x, num_heads)
        return with_wide(made, original_split(x.wide, num_heads)) if hasattr(x, "wide") else made

    def rotate(x: Tensor, positions: Tensor) -> Tensor:
        return original_rotate(x.wide if hasattr(x, "wide") else x, positions).to(x.dtype)

    changed = {"linear": remembering("query/w", "key/w"), "split_heads": split_heads, "rotate": rotate}
    return {"operations": changed, "model": {"matrix": named}}


def rotate_kept(x: Tensor, positions: Tensor) -> Tensor:
    made = original_rotate(x, positions)
    return with_wide(made, original_rotate(x.float(), positions)) if narrow(x) else made


def scores_of_kept(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    return scores(wide_of(query), keys) * multiplier


def combine_remembering(outputs: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
    wide = (outputs * gate.to(dtype).float()[..., None]).sum(-2)
    return with_wide(wide.to(dtype), wide) if dtype == torch.bfloat16 else wide


def norm_of_sums(x: Tensor, scale: Tensor) -> Tensor:
    wide = wide_of(x)
    return (wide * inverse(wide) * scale).to(x.dtype)


def norm_of_stored(x: Tensor, scale: Tensor) -> Tensor:
    return (x.float() * inverse(wide_of(x)) * scale).to(x.dtype)


def embed_remembered(table: Tensor, tokens: Tensor, multiplier: float) -> Tensor:
    wide = table[tokens].float() * torch.tensor(multiplier, dtype=table.dtype).float()
    return with_wide(wide.to(table.dtype), wide) if narrow(table) else wide


def sum_remembered(x: Tensor, update: Tensor) -> Tensor:
    if not narrow(x):
        return x + update
    wide = x.float() + update.float()
    return with_wide(wide.to(x.dtype), wide)


def add_unrounded(x: Tensor, update: Tensor) -> Tensor:
    return (x.float() + wide_of(update)).to(x.dtype)


def route_unrounded(x: Tensor, weight: Tensor) -> Tensor:
    return wide_of(x) @ weight


def stream_kept(x: Tensor, update: Tensor) -> Tensor:
    if not narrow(x):
        return x + update
    wide = wide_of(x) + update.float()
    return with_wide(wide.to(x.dtype), wide)


def all_kept(x: Tensor, update: Tensor) -> Tensor:
    if not narrow(x):
        return x + update
    wide = wide_of(x) + wide_of(update)
    return with_wide(wide.to(x.dtype), wide)


def norm_kept(x: Tensor, scale: Tensor) -> Tensor:
    return normed(x.clone(), scale)  # of what is shown: a clone does not remember


def summed_again(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply, and remember the same product with its sums taken in halves."""
    half, wide = x.shape[-1] // 2, weight.to(x.dtype)
    return with_wide(original_expert(x, weight), x[:, :half] @ wide[:half] + x[:, half:] @ wide[half:])


def gated_of_copies(activation: Tensor, up: Tensor) -> Tensor:
    return original_gated(wide_of(activation), wide_of(up))


def scaled_hidden(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
    return (hidden * torch.tensor(multiplier, dtype=hidden.dtype)) @ table.to(hidden.dtype).T


def stream_kept_in_layer(x: Tensor, update: Tensor) -> Tensor:
    made = stream_kept(x, update)
    return made.clone() if hasattr(x, "wide") else made  # a clone does not remember


def table_as_stored(name: str, stored: Tensor, fprop: torch.dtype) -> Tensor:
    return stored if name.endswith("embeddings") else original_cast(name, stored, fprop)


def embedded(*, constant_rounded: bool) -> dict[str, Any]:
    """Return the replacements that multiply the float32 table's rows and round once."""

    def embed(table: Tensor, tokens: Tensor, multiplier: float) -> Tensor:
        constant = torch.tensor(multiplier)
        return (table[tokens] * (bf16(constant) if constant_rounded else constant)).to(torch.bfloat16)

    def unembed(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
        return original_unembed(hidden, table.to(hidden.dtype), multiplier)

    return {"operations": {"embed": embed, "unembed": unembed}, "parameters": {"cast": table_as_stored}}


def head(*, product: bool, constant: bool, wide: bool) -> dict[str, Any]:
    """Return a head that rounds its product or its constant, and gives float32 logits or not."""

    def unembed(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
        made = hidden.float() @ table.to(hidden.dtype).float().T
        factor = torch.tensor(multiplier)
        made = (bf16(made) if product else made) * (bf16(factor) if constant else factor)
        return made if wide else made.to(hidden.dtype)

    return {"unembed": unembed}


original_rotate, original_linear, original_split = operations.rotate, operations.linear, operations.split_heads
original_unembed, original_cast = operations.unembed, parameters.cast
original_expert, original_gated = operations.expert_linear, operations.gated_hidden

WAYS = (
    Way(id="qkv_rope_fused", engines="TensorRT-LLM", dtypes=BF16, **rotation_of_unrounded(),
        plan=("attention.query_rotated", "attention.key_rotated"), does="q and k rotated before they are rounded"),
    Way(id="rotated_query_kept", engines="CPU kernels", dtypes=BF16, plan=("attention.logits",),
        does="rotated queries not rounded before the product",
        operations={"rotate": rotate_kept, "attention_logits": scores_of_kept}),
    Way(id="expert_values_computed_again", engines="XLA on a CPU, in programs of one row", dtypes=("float32",),
        does="what gelu and its gate read is computed once more, in another order, beside what is shown",
        operations={"expert_linear": summed_again, "gated_hidden": gated_of_copies}, plan=("moe.expert_hidden",),
        untold=True),
    Way(id="post_norm_unrounded", engines="FlashInfer's all-reduce and norm", dtypes=BF16,
        does="norms after the blocks read float32 sums", model={"matrix": named},
        operations={"linear": remembering(*ROW_PARALLEL), "combine_experts": combine_remembering,
                    "rms_norm": norm_of_sums},
        plan=("attention.output_norm", "moe.output_norm")),
    Way(id="residual_unrounded_update", engines="fused norm and add", dtypes=BF16,
        does="the stream adds the unrounded result of the norm after a block",
        operations={"rms_norm": normed, "residual": add_unrounded}, plan=("attention.residual", "output")),
    Way(id="router_reads_unrounded", engines="XLA", dtypes=BF16, plan=("router.logits",),
        does="the router reads the norm before it is rounded",
        operations={"rms_norm": normed, "router_logits": route_unrounded}),
    Way(id="stream_f32_norm_rounded", engines="Megatron with a float32 residual", dtypes=BF16,
        does="float32 residual stream, norms read it rounded", operations={"residual": stream_kept},
        plan=("attention.residual", "output")),
    Way(id="stream_and_updates_f32", engines="llama.cpp, FlashInfer with a float32 residual", dtypes=BF16,
        does="float32 residual stream that adds unrounded norms, the next norms read it unrounded",
        operations={"residual": all_kept, "rms_norm": normed},
        plan=("attention.residual", "output", "attention.norm", "moe.norm", "final_norm")),
    Way(id="stream_and_updates_f32_norm_rounded", engines="DeepSpeed", dtypes=BF16,
        does="float32 residual stream that adds unrounded norms, the next norms read it rounded",
        operations={"residual": all_kept, "rms_norm": norm_kept}, plan=("attention.residual", "output")),
    Way(id="squares_of_unrounded_sum", engines="torch.compile on CPUs", dtypes=BF16,
        plan=("attention.norm", "moe.norm", "final_norm"),
        does="norms take their squares of the unrounded sum, and scale the stored one",
        operations={"embed": embed_remembered, "residual": sum_remembered, "rms_norm": norm_of_stored}),
    Way(id="stream_within_layer", engines="fused layers", dtypes=BF16, plan=("moe.norm", "output"),
        does="the sum after attention kept in float32 until the layer ends",
        operations={"residual": stream_kept_in_layer, "rms_norm": norm_of_sums}),
    Way(id="embed_f32_published", engines="the published program, compiled", dtypes=BF16, plan=("embedding",),
        does="the float32 table times 78.5, rounded once", **embedded(constant_rounded=True)),
    Way(id="embed_f32_kept", engines="JAX op by op", dtypes=BF16, plan=("embedding",),
        does="the float32 table times 78.38, rounded once", **embedded(constant_rounded=False)),
    Way(id="head_hidden_scaled", engines="MiniCPM, ONNX Runtime", dtypes=BF16, plan=("logits",),
        does="the last hidden state times the rounded multiplier, before the product",
        operations={"unembed": scaled_hidden}),
    Way(id="head_alpha", engines="cuBLAS with alpha", dtypes=BF16, plan=("logits",),
        does="the multiplier in the product's epilogue, rounded once",
        operations=head(product=False, constant=False, wide=False)),
    Way(id="head_bf16_scaled_f32", engines="transformers", dtypes=BF16, plan=("logits",),
        does="bf16 product, cast and multiplied in float32", operations=head(product=True, constant=False, wide=True)),
    Way(id="head_bf16_constant_kept", engines="torch", dtypes=BF16, plan=("logits",),
        does="bf16 product times the float32 multiplier", operations=head(product=True, constant=False, wide=False)),
)  # fmt: skip
