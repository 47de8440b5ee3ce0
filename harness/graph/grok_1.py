"""Grok-1 as a table of operations, wired by the taps they read and make (SPEC §4).

It is long because it is one table, in the order of the forward pass: a part of it would say nothing alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from grok_conformance.harness.contract import grok_1 as stored
from grok_conformance.harness.contract import tap_specs
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.operations import attention, embedding, experts, norm, router
from grok_conformance.harness.graph.rounding import (
    ACCUMULATOR,
    LIKE_THE_CACHE,
    OPERANDS,
    RESULT,
    SCALES,
    SUMS,
    UNSIGNED,
    WEIGHTS,
)
from grok_conformance.harness.graph.row import LAST_OUTPUT, RESIDUAL_STREAM, Operation
from grok_conformance.harness.graph.tensor_cores import TENSOR_CORE

PRODUCT = (WEIGHTS, OPERANDS, SCALES, SUMS, TENSOR_CORE, UNSIGNED, ACCUMULATOR)
"""The points of a product with a stored matrix."""

TABLE = f"/{stored.EMBEDDINGS}"

COMBINED_IN_RANKS = Operation(
    name="moe.output",
    block="moe",
    section="§4.6",
    function=experts.combine_in_ranks,
    inputs=("moe.expert_gate", "moe.expert_hidden", "moe.expert_index"),
    weights=(stored.EXPERT_OUT,),
)
"""What tensor parallel experts do where their outputs are never whole."""

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="embedding",
        token_alone=True,
        looks_up=True,
        section="§4.2",
        function=embedding.embedding,
        weights=(TABLE,),
        points=(embedding.ROWS, embedding.MULTIPLIER),
    ),
    Operation(
        name="attention.norm",
        token_alone=True,
        section="§4.4",
        function=norm.rms_norm,
        inputs=(RESIDUAL_STREAM,),
        weights=(stored.GAINS[0],),
        points=(norm.NORMALISED, norm.ROOT),
        measures=True,
    ),
    Operation(
        name="attention.query",
        token_alone=True,
        section="§4.4",
        function=attention.project_heads,
        inputs=("attention.norm",),
        weights=(stored.QUERY,),
        points=PRODUCT,
        products="btdqh",
        operands=(0,),
    ),
    Operation(
        name="attention.key",
        token_alone=True,
        section="§4.4",
        function=attention.project_heads,
        inputs=("attention.norm",),
        weights=(stored.KEY,),
        points=PRODUCT,
        products="btdgh",
        operands=(0,),
    ),
    Operation(
        name="attention.value",
        token_alone=True,
        section="§4.4",
        function=attention.project_heads,
        inputs=("attention.norm",),
        weights=(stored.VALUE,),
        points=PRODUCT,
        products="btdgh",
        operands=(0,),
    ),
    Operation(
        name="attention.query_rotated",
        section="§4.4",
        function=attention.rotate,
        inputs=("attention.query",),
        points=(attention.ROTATED,),
    ),
    Operation(
        name="attention.key_rotated",
        section="§4.4",
        function=attention.rotate,
        inputs=("attention.key",),
        points=(attention.ROTATED,),
    ),
    Operation(
        name="kv.keys",
        copies=True,
        section="§5",
        function=attention.update_cache,
        inputs=("previous:kv.keys", "attention.key_rotated"),
        operands=(1,),
    ),
    Operation(
        name="kv.values",
        copies=True,
        section="§5",
        function=attention.update_cache,
        inputs=("previous:kv.values", "attention.value"),
        operands=(1,),
    ),
    Operation(
        name="attention.logits",
        section="§4.4",
        function=attention.attention_logits,
        inputs=("attention.query_rotated", "kv.keys"),
        points=(LIKE_THE_CACHE, attention.SCALE, attention.QUERY_KEY, ACCUMULATOR, attention.CAP),
        products="btqsh",
        operands=(0, 1),
    ),
    Operation(
        name="attention.weights",
        section="§4.4",
        function=attention.attention_weights,
        inputs=("attention.logits",),
        points=(attention.MAXIMUM,),
    ),
    Operation(
        name="attention.heads",
        section="§4.4",
        function=attention.attend,
        inputs=("attention.weights", "kv.values"),
        points=(LIKE_THE_CACHE, attention.SUMMED, attention.SPLITS, ACCUMULATOR),
        products="btqsh",
        operands=(0,),
    ),
    Operation(
        name="attention.output",
        section="§4.4",
        function=attention.project_output,
        inputs=("attention.heads",),
        weights=(stored.ATTENTION_OUT,),
        points=PRODUCT,
        products="btqhd",
        operands=(0,),
    ),
    Operation(
        name="attention.output_norm",
        section="§4.5",
        function=norm.rms_norm,
        inputs=("attention.output",),
        weights=(stored.GAINS[1],),
        points=(norm.NORMALISED, norm.ROOT),
        measures=True,
    ),
    Operation(
        name="attention.residual",
        is_stream=True,
        section="§4.5",
        function=norm.add_residual,
        inputs=(RESIDUAL_STREAM, "attention.output_norm"),
    ),
    Operation(
        name="moe.norm",
        section="§4.6",
        function=norm.rms_norm,
        inputs=("attention.residual",),
        weights=(stored.GAINS[2],),
        points=(norm.NORMALISED, norm.ROOT),
        measures=True,
    ),
    Operation(
        name="router.logits",
        section="§4.6",
        function=router.router_logits,
        inputs=("moe.norm",),
        weights=(stored.ROUTER,),
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
        weights=(stored.EXPERT_ACTIVATION,),
        points=(*PRODUCT, RESULT),
        products="btcdf",
        operands=(0,),
    ),
    Operation(
        name="moe.expert_up",
        section="§4.6",
        function=experts.expert_in,
        inputs=("moe.norm", "moe.expert_index"),
        weights=(stored.EXPERT_UP,),
        points=(*PRODUCT, RESULT),
        products="btcdf",
        operands=(0,),
    ),
    Operation(
        name="moe.expert_hidden",
        section="§4.6",
        function=experts.gated_hidden,
        inputs=("moe.expert_activation", "moe.expert_up"),
        points=(experts.TANH, experts.GELU, experts.HIDDEN),
        stored_as=stored.EXPERT_OUT,
    ),
    Operation(
        name="moe.expert_output",
        section="§4.6",
        function=experts.expert_out,
        inputs=("moe.expert_hidden", "moe.expert_index"),
        weights=(stored.EXPERT_OUT,),
        points=(*PRODUCT, RESULT),
        products="btcfd",
        operands=(0,),
    ),
    Operation(
        name="dense.activation",
        section="§4.6",
        function=experts.dense_in,
        inputs=("moe.norm",),
        weights=(stored.DENSE_ACTIVATION,),
        points=PRODUCT,
        products="btdf",
        operands=(0,),
    ),
    Operation(
        name="dense.up",
        section="§4.6",
        function=experts.dense_in,
        inputs=("moe.norm",),
        weights=(stored.DENSE_UP,),
        points=PRODUCT,
        products="btdf",
        operands=(0,),
    ),
    Operation(
        name="dense.hidden",
        section="§4.6",
        function=experts.dense_hidden,
        inputs=("dense.activation", "dense.up"),
        points=(experts.TANH, experts.DENSE_GELU),
        stored_as=stored.DENSE_OUT,
    ),
    Operation(
        name="moe.output",
        block="moe",
        section="§4.6",
        function=experts.combine,
        inputs=("moe.expert_gate", "moe.expert_output", "moe.expert_index"),
        points=(experts.GATE, experts.TERMS, experts.SUM, experts.GROUPS, experts.RANKS, experts.SHARES),
        through=(experts.RANKS, COMBINED_IN_RANKS),
        stored_as=stored.EXPERT_OUT,
        products="btcd",
    ),
    Operation(
        name="dense.output",
        makes="moe.output",
        block="dense",
        section="§4.6",
        function=experts.dense_out,
        inputs=("dense.hidden",),
        weights=(stored.DENSE_OUT,),
        points=PRODUCT,
        products="btfd",
        operands=(0,),
    ),
    Operation(
        name="moe.output_norm",
        section="§4.7",
        function=norm.rms_norm,
        inputs=("moe.output",),
        weights=(stored.GAINS[3],),
        points=(norm.NORMALISED, norm.ROOT),
        measures=True,
    ),
    Operation(
        name="output",
        is_stream=True,
        section="§4.7",
        function=norm.add_residual,
        inputs=("attention.residual", "moe.output_norm"),
    ),
    Operation(
        name="final_norm",
        section="§4.8",
        function=norm.rms_norm,
        inputs=(LAST_OUTPUT,),
        weights=(f"/{stored.LAST_GAIN}",),
        points=(norm.NORMALISED, norm.ROOT),
        measures=True,
    ),
    Operation(
        name="logits",
        section="§4.8",
        function=embedding.logits,
        inputs=("final_norm",),
        weights=(TABLE,),
        points=(
            OPERANDS,
            embedding.HEAD,
            embedding.LOGITS_MULTIPLIER,
            embedding.LOGITS_PRODUCT,
            SUMS,
            TENSOR_CORE,
            ACCUMULATOR,
        ),
        products="btdv",
        operands=(0,),
    ),
)

NOUNS = {
    "b": "row",
    "t": "token",
    "s": "slot",
    "d": "channel",
    "q": "query head",
    "g": "key head",
    "r": "group member",
    "h": "head channel",
    "e": "expert",
    "c": "choice",
    "f": "hidden channel",
    "v": "token id",
}
"""What one place along an axis is called in a report."""

CANCELLING: Mapping[str, float] = {
    **dict.fromkeys((stored.GAINS[0], stored.EXPERT_UP, stored.DENSE_UP), 2.0),
    **dict.fromkeys((stored.QUERY, stored.KEY, stored.VALUE, stored.EXPERT_OUT, stored.DENSE_OUT), 0.5),
}
"""Factors of weights of every layer that cancel: the first norm and what follows it, an expert's two last matrices."""

DOUBLED = ("attention.norm", "moe.expert_up", "moe.expert_hidden", "dense.up", "dense.hidden")
"""The taps between such weights."""

GROK_1 = ModelGraph(
    operations=OPERATIONS,
    taps=tap_specs(),
    layer_path=stored.LAYER,
    weights={**{f"/{name}": weight for name, weight in stored.OF_THE_MODEL.items()}, **stored.OF_A_LAYER},
    stream=("embedding", "output"),
    nouns=NOUNS,
)
"""The model of SPEC: the one place that knows which operations and weights Grok-1 has."""
