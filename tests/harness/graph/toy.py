"""A model of three operations that has nothing of Grok-1: what the checks know of a model, they know from its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np

from grok_conformance.harness.cases.case import Call, Case, Preset
from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import Array, TapSpec
from grok_conformance.harness.graph.arithmetic import contract
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import LAST_OUTPUT, RESIDUAL_STREAM, Exact, Operation, Scope

CONFIG = replace(UNEQUAL, model=replace(UNEQUAL.model, num_layers=2))
WIDTH = CONFIG.model.emb_size


def look_up(table: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    del plan
    return Exact(table[scope.tokens])


def mix(x: Array, matrix: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    del scope, plan
    return contract(x, matrix)


def halve(x: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    del scope, plan
    return Exact(x / 2, bound=np.abs(x))


def spec(name: str) -> TapSpec:
    return TapSpec(name, ("b", "t", "d"), "fprop", "logits", "always", "tokens", "of the toy")


TOY = ModelGraph(
    operations=(
        Operation(name="start", section="", function=look_up, weights=("/toy/table",), looks_up=True),
        Operation(name="mixed", section="", function=mix, inputs=(RESIDUAL_STREAM,), weights=("matrix",)),
        Operation(name="end", section="", function=halve, inputs=(LAST_OUTPUT,)),
    ),
    taps=(spec("start"), spec("layers.*.mixed"), spec("end")),
    layer_path="toy/{layer}/",
    stream=("start", "mixed"),
)


def preset() -> Preset:
    random = np.random.default_rng(0)
    weights = {"toy/table": random.standard_normal((CONFIG.vocab_size, WIDTH)).astype(np.float32)}
    for layer in range(2):
        matrix = random.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
        weights[f"toy/{layer}/matrix"] = matrix.astype(np.float32)
    return Preset("toy", CONFIG, weights)


def case() -> Case:
    tokens = np.random.default_rng(1).integers(1, CONFIG.vocab_size, (2, 5), dtype=np.int32)
    call = Call("prefill", tokens, np.array([5, 3], np.int32))
    return Case(
        id="toy/prefill/two_rows.bfloat16", preset="toy", fprop_dtype="bfloat16", why="", origin="", calls=(call,)
    )


def port(*, transposed_layer: int | None = None) -> Mapping[str, Array]:
    """Return what a port in bfloat16 shows; one layer's matrix may be transposed."""
    weights, tokens = preset().weights, case().calls[0].tokens
    x = weights["toy/table"][tokens].astype(ml_dtypes.bfloat16)
    taps = {"call0/start": x}
    for layer in range(2):
        matrix = weights[f"toy/{layer}/matrix"]
        x = (x.astype(np.float32) @ (matrix.T if layer == transposed_layer else matrix)).astype(ml_dtypes.bfloat16)
        taps[f"call0/layers.{layer:02d}.mixed"] = x
    return {**taps, "call0/end": (x.astype(np.float32) / 2).astype(ml_dtypes.bfloat16)}
