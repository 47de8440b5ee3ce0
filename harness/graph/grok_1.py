"""Grok-1 as a table of operations, wired by the taps they read and make (SPEC §4)."""

from __future__ import annotations

from grok_conformance.harness.contract import tap_specs
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.operations import attention, embedding, experts, norm, router
from grok_conformance.harness.graph.row import CANONICAL, Alternative, Operation

CARRIED = Alternative("inner value not rounded", inner="kept")
PRODUCT_KEPT = Alternative("int8 times scale not rounded", weights="kept")
PRODUCT_ROUNDED = Alternative("int8 times scale rounded to the scales' dtype", weights="rounded")
OPERANDS_ROUNDED = Alternative("activations rounded to the compute dtype", operands="fprop")
ANY_WEIGHTS = (CANONICAL, PRODUCT_KEPT, PRODUCT_ROUNDED, OPERANDS_ROUNDED)
LIKE_THE_CACHE = Alternative("operands rounded to float16, like the cache", inner="kept", operands="float16")
SHARDED = tuple(Alternative(f"{n} partial sums, each rounded", shards=n) for n in (2, 4, 8))
"""Of a row-parallel product whose partial sums travel between shards in the compute dtype."""

TABLE = "/language_model/in_out_embed/embeddings"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="embedding",
        token_alone=True,
        looks_up=True,
        section="§4.2",
        function=embedding.embedding,
        weights=(TABLE,),
        alternatives=(
            CANONICAL,
            CARRIED,
            Alternative("multiplier not rounded", constant="kept"),
            Alternative("neither inner value nor multiplier rounded", inner="kept", constant="kept"),
        ),
    ),
    Operation(
        name="attention.norm",
        token_alone=True,
        section="§4.4",
        function=norm.rms_norm,
        inputs=("residual_stream",),
        weights=("rms_norm/scale",),
    ),
    Operation(
        name="attention.query",
        token_alone=True,
        section="§4.4",
        function=attention.project_heads,
        inputs=("attention.norm",),
        weights=("multi_head_attention/query/w",),
        alternatives=ANY_WEIGHTS,
        products="btdqh",
    ),
    Operation(
        name="attention.key",
        token_alone=True,
        section="§4.4",
        function=attention.project_heads,
        inputs=("attention.norm",),
        weights=("multi_head_attention/key/w",),
        alternatives=ANY_WEIGHTS,
        products="btdgh",
    ),
    Operation(
        name="attention.value",
        token_alone=True,
        section="§4.4",
        function=attention.project_heads,
        inputs=("attention.norm",),
        weights=("multi_head_attention/value/w",),
        alternatives=ANY_WEIGHTS,
        products="btdgh",
    ),
    Operation(
        name="attention.query_rotated",
        section="§4.4",
        function=attention.rotate,
        inputs=("attention.query",),
    ),
    Operation(
        name="attention.key_rotated",
        section="§4.4",
        function=attention.rotate,
        inputs=("attention.key",),
    ),
    Operation(
        name="kv.keys",
        copies=True,
        section="§5",
        function=attention.update_cache,
        inputs=("previous:kv.keys", "attention.key_rotated"),
    ),
    Operation(
        name="kv.values",
        copies=True,
        section="§5",
        function=attention.update_cache,
        inputs=("previous:kv.values", "attention.value"),
    ),
    Operation(
        name="attention.logits",
        section="§4.4",
        function=attention.attention_logits,
        inputs=("attention.query_rotated", "kv.keys"),
        alternatives=(CANONICAL, CARRIED, LIKE_THE_CACHE),
        products="btqsh",
    ),
    Operation(
        name="attention.weights",
        section="§4.4",
        function=attention.attention_weights,
        inputs=("attention.logits",),
    ),
    Operation(
        name="attention.heads",
        section="§4.4",
        function=attention.attend,
        inputs=("attention.weights", "kv.values"),
        alternatives=(CANONICAL, LIKE_THE_CACHE),
        products="btqsh",
    ),
    Operation(
        name="attention.output",
        section="§4.4",
        function=attention.project_output,
        inputs=("attention.heads",),
        weights=("multi_head_attention/linear/w",),
        alternatives=(*ANY_WEIGHTS, *SHARDED),
        products="btqhd",
    ),
    Operation(
        name="attention.output_norm",
        section="§4.5",
        function=norm.rms_norm,
        inputs=("attention.output",),
        weights=("rms_norm_1/scale",),
    ),
    Operation(
        name="attention.residual",
        section="§4.5",
        function=norm.add_residual,
        inputs=("residual_stream", "attention.output_norm"),
    ),
    Operation(
        name="moe.norm",
        section="§4.6",
        function=norm.rms_norm,
        inputs=("attention.residual",),
        weights=("rms_norm_2/scale",),
    ),
    Operation(
        name="router.logits",
        section="§4.6",
        function=router.router_logits,
        inputs=("moe.norm",),
        weights=("router/w",),
        products="btde",
    ),
    Operation(
        name="router.probabilities",
        scores=True,
        section="§4.6",
        function=router.router_probabilities,
        inputs=("router.logits",),
    ),
    Operation(
        name="moe.expert_index",
        chooses=True,
        section="§4.6",
        function=router.expert_index,
        inputs=("router.probabilities",),
    ),
    Operation(
        name="moe.expert_gate",
        section="§4.6",
        function=router.expert_gate,
        inputs=("router.probabilities", "moe.expert_index"),
    ),
    Operation(
        name="moe.expert_activation",
        section="§4.6",
        function=experts.expert_in,
        inputs=("moe.norm", "moe.expert_index"),
        weights=("moe/linear/w",),
        alternatives=ANY_WEIGHTS,
        products="btcdf",
    ),
    Operation(
        name="moe.expert_up",
        section="§4.6",
        function=experts.expert_in,
        inputs=("moe.norm", "moe.expert_index"),
        weights=("moe/linear_v/w",),
        alternatives=ANY_WEIGHTS,
        products="btcdf",
    ),
    Operation(
        name="moe.expert_hidden",
        section="§4.6",
        function=experts.gated_hidden,
        inputs=("moe.expert_activation", "moe.expert_up"),
        alternatives=(CANONICAL, Alternative("product rounded to the compute dtype", product="rounded")),
    ),
    Operation(
        name="moe.expert_output",
        section="§4.6",
        function=experts.expert_out,
        inputs=("moe.expert_hidden", "moe.expert_index"),
        weights=("moe/linear_1/w",),
        alternatives=ANY_WEIGHTS,
        products="btcfd",
    ),
    Operation(
        name="dense.activation",
        section="§4.6",
        function=experts.dense_in,
        inputs=("moe.norm",),
        weights=("linear/w",),
        alternatives=ANY_WEIGHTS,
        products="btdf",
    ),
    Operation(
        name="dense.up",
        section="§4.6",
        function=experts.dense_in,
        inputs=("moe.norm",),
        weights=("linear_v/w",),
        alternatives=ANY_WEIGHTS,
        products="btdf",
    ),
    Operation(
        name="dense.hidden",
        section="§4.6",
        function=experts.dense_hidden,
        inputs=("dense.activation", "dense.up"),
        alternatives=(CANONICAL, CARRIED),
    ),
    Operation(
        name="moe.output",
        block="moe",
        section="§4.6",
        function=experts.combine,
        inputs=("moe.expert_gate", "moe.expert_output"),
        alternatives=(CANONICAL, CARRIED),
        products="btcd",
    ),
    Operation(
        name="dense.output",
        makes="moe.output",
        block="dense",
        section="§4.6",
        function=experts.dense_out,
        inputs=("dense.hidden",),
        weights=("linear_1/w",),
        alternatives=(*ANY_WEIGHTS, *SHARDED),
        products="btfd",
    ),
    Operation(
        name="moe.output_norm",
        section="§4.7",
        function=norm.rms_norm,
        inputs=("moe.output",),
        weights=("rms_norm_3/scale",),
    ),
    Operation(
        name="output",
        section="§4.7",
        function=norm.add_residual,
        inputs=("attention.residual", "moe.output_norm"),
    ),
    Operation(
        name="final_norm",
        section="§4.8",
        function=norm.rms_norm,
        inputs=("last_output",),
        weights=("/language_model/rms_norm/scale",),
    ),
    Operation(
        name="logits",
        section="§4.8",
        function=embedding.logits,
        inputs=("final_norm",),
        weights=(TABLE,),
        alternatives=(
            CANONICAL,
            CARRIED,
            Alternative("multiplier not rounded", constant="kept"),
            Alternative("neither inner value nor multiplier rounded", inner="kept", constant="kept"),
            Alternative("only the activations rounded", inner="kept", constant="kept", operands="fprop"),
        ),
        products="btdv",
    ),
)

GROK_1 = ModelGraph(
    operations=OPERATIONS,
    taps=tap_specs(),
    layer_path="transformer/decoder_layer_{layer}/",
    stream=("embedding", "output"),
    expert_weight="moe/linear/w",
)
"""The model of SPEC: the one place that knows which operations and weights Grok-1 has."""
