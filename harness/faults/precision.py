"""Faults of precision: right functions in fewer digits than the specification asks for, whatever may be rounded."""

from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.faults import narrow_arithmetic, narrow_results
from grok_conformance.harness.faults.fault import Change, Fault, changes_at
from grok_conformance.harness.faults.operation import NORMS, activated_by
from grok_conformance.harness.faults.weights import QUANTISED
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.operations import attention, router
from grok_conformance.harness.graph.quantised import quantising
from grok_conformance.harness.graph.row import Multiply

PRODUCTS = (*QUANTISED, "logits")
ROTATIONS = ("attention.query_rotated", "attention.key_rotated")
CACHES = ("kv.keys", "kv.values")


def multiplied(multiply: Multiply) -> dict[str, Change]:
    """Return another product with every stored matrix."""
    return changes_at(*PRODUCTS, scope=narrow_arithmetic.multiplying(multiply))


def of_product(name: str, title: str, remedy: str, provenance: str, multiply: Multiply) -> Fault:
    """Return the row of a fault of products with stored matrices."""
    return Fault(
        id=name,
        kind="precision",
        title=title,
        remedy=remedy,
        explanation=(
            "Products take operands of the compute dtype as they are, and sum in float32 (SPEC §4); a port may split "
            "a sum and round its parts, no more."
        ),
        provenance=provenance,
        changes=multiplied(multiply),
    )


def of_function(name: str, title: str, remedy: str, provenance: str, changes: dict[str, Change]) -> Fault:
    """Return the row of a fault of a function."""
    return Fault(
        id=name,
        kind="precision",
        title=title,
        remedy=remedy,
        explanation="It is computed in float32, and rounded once where its result is stored (SPEC §4).",
        provenance=provenance,
        changes=changes,
    )


KEEP_ACTIVATIONS = "multiply activations of the compute dtype: do not quantise them"
KEEP_SUMS = "accumulate products in float32"
FULL_FLOAT32 = "ask for full float32 products (torch: matmul precision 'highest', JAX: 'float32')"


def of_quantised(name: str, title: str, provenance: str, kind: str) -> Fault:
    """Return the row of a quantisation of activations, which is right where a port declares it."""
    return Fault(
        id=name,
        kind="precision",
        title=title,
        remedy=f"do not quantise activations, or declare it in INFO: quantised to {kind}",
        explanation="Products take operands of the compute dtype as they are (SPEC §4), unless INFO says otherwise.",
        provenance=provenance,
        changes={row: Change(function=quantising(GROK_1.by_name[row], kind, GROK_1).function) for row in PRODUCTS},
    )


def of_cache_read(name: str, title: str, provenance: str, kind: str) -> Fault:
    """Return the row of a quantised cache that shows what it was given, which is right where a port declares it."""
    rows = (GROK_1.by_name[name] for name in ("attention.logits", "attention.heads"))
    return Fault(
        id=name,
        kind="precision",
        title=title,
        remedy=f"read keys and values as they were stored, or declare in INFO: caches quantised to {kind}",
        explanation="Attention reads what the cache holds (SPEC §4.4), unless INFO says that it is quantised.",
        provenance=provenance,
        changes={row.name: Change(function=quantising(replace(row, operands=(1,)), kind, GROK_1).function)
                 for row in rows},
    )  # fmt: skip


def of_float16_weights(name: str, title: str, provenance: str, changes: dict[str, Change]) -> Fault:
    """Return the row of weights, all or some of them, that are float16."""
    return Fault(
        id=name,
        kind="precision",
        title=title,
        remedy="dequantise to the dtype of the scales and then to the compute dtype, or keep float32",
        explanation="int8 · scale is rounded to the scales' dtype, or kept in float32 (SPEC §3); float16 is neither.",
        provenance=provenance,
        changes=changes,
    )


IN_FLOAT32 = ("embedding", *NORMS, *ROTATIONS, *QUANTISED, "attention.logits", "attention.weights", "attention.heads",
              "attention.residual", "moe.expert_hidden", "dense.hidden", "moe.output", "output", "logits")  # fmt: skip
"""The rows whose results a bf16 port rounds, and a float32 port must not."""

OF_PRODUCTS = (
    of_quantised("activations_int8", "activations are quantised to int8 with a scale per token",
                 "SmoothQuant, W8A8 kernels", "int8"),
    of_quantised("activations_int8_in_blocks", "activations are quantised to int8 in blocks of 32",
                 "llama.cpp's Q8_0 products on CPUs", "int8_block32"),
    of_quantised("activations_fp8", "activations are quantised to fp8 with a scale per token",
                 "TransformerEngine, vLLM fp8", "fp8"),
    of_product("activations_fp8_dispatched", "activations travel in fp8 with a scale per token, and are read in bf16",
               KEEP_ACTIVATIONS, "DeepEP's fp8 dispatch",
               narrow_arithmetic.of_activations(narrow_arithmetic.through_fp8)),
    of_product("weights_requantised", "weights are stored again as int8 in blocks of 32",
               "use the stored int8 values and scales as they are", "llama.cpp converters",
               narrow_arithmetic.of_requantised),
    of_product("products_tf32", "products of float32 run in TF32", FULL_FLOAT32, "torch, JAX on GPUs",
               narrow_arithmetic.in_tf32),
    of_product("products_bf16x3", "products of float32 are three bf16 products", FULL_FLOAT32,
               "TPU precision 'high', oneMKL", narrow_arithmetic.in_three_bf16_products),
    of_product("activations_int8_per_tensor", "activations are quantised to int8 with one scale for all",
               KEEP_ACTIVATIONS, "static W8A8",
               narrow_arithmetic.of_activations(narrow_results.int8_per_tensor)),
    *(of_product(f"weights_{grid}", f"weights are stored again as {grid} with a scale per output channel",
                 "use the stored values and scales as they are", "weight-only quantisation", multiply)
      for grid, multiply in narrow_results.WEIGHT_GRIDS.items()),
    *(Fault(
        id=f"products_{digits}", kind="precision", title=f"operands of float32 products are rounded to {words}",
        remedy=FULL_FLOAT32, explanation="Products of a float32 port take operands in float32 (SPEC §4).",
        provenance="fast-math settings of BLAS libraries",
        changes=changes_at(*PRODUCTS, scope=narrow_results.multiplying_in_float32(narrow_results.of_both(change))))
      for digits, words, change in (("bf16", "bf16", narrow_arithmetic.bf16),
                                    ("float16", "float16", narrow_results.float16))),
    *(of_product(f"accumulated_in_{digits}_every_{every}", f"sums are rounded to {digits} after every {every} products",
                 KEEP_SUMS, provenance, narrow_arithmetic.accumulated(num_bits, every))
      for digits, num_bits, provenance in (("bf16", 8, "mlir-air"), ("float16", 11, "half-precision tensor cores"),
                                              ("14_bits", 14, "fp8 tensor cores of Hopper"))
      for every in (1, 8, 16, 32)),
    of_product("all_reduce_fp8", "partial sums of 4 ranks travel in fp8",
               "let partial sums travel in the compute dtype", "vLLM quick all-reduce",
               narrow_arithmetic.parts_in_fp8(4)),
    of_product("rounded_towards_zero", "results are cut off to bf16", "round results to the nearest",
               "conversions that drop bits", narrow_arithmetic.cut_off),
    of_float16_weights("weights_float16", "weights are float16", "float16 loaders",
                       dict.fromkeys(PRODUCTS, Change(weights_in="float16"))),
    of_float16_weights("int8_weights_float16", "int8 weights are dequantised to float16, all others as they should be",
                       "W8A16 kernels in float16", dict.fromkeys(QUANTISED, Change(int8_in="float16"))),
)  # fmt: skip

OF_FUNCTIONS = (
    of_function("router_weight_bf16", "the router's weights are rounded to bf16",
                "load the router's weights in float32", "loaders that cast every weight",
                {"router.logits": Change(weights_in="bfloat16")}),
    of_function("router_logits_bf16", "the router's logits are rounded to bf16",
                "keep the router's logits in float32", "linear layers of bf16 models",
                changes_at("router.logits", function=narrow_arithmetic.router_logits_rounded)),
    of_function("router_weight_float16", "the router's weights are rounded to float16",
                "load the router's weights in float32", "float16 loaders",
                {"router.logits": Change(weights_in="float16")}),
    of_function("router_softmax_bf16", "every step of the softmax over experts is rounded to bf16",
                "take the softmax over experts in float32", "routers of bf16 models",
                changes_at("router.probabilities", function=narrow_results.softmax_of_experts_in_bf16)),
    of_function("router_probabilities_bf16", "the router's probabilities are rounded to bf16",
                "keep the router's probabilities in float32", "routers of bf16 models",
                changes_at("router.probabilities", function=narrow_results.result_of(
                    router.router_probabilities, narrow_arithmetic.bf16, anywhere=True))),
    of_function("norm_squares_bf16", "the norms' squares are rounded to bf16", "square and sum in float32",
                "x.square() of a bf16 tensor", changes_at(*NORMS, function=narrow_arithmetic.norm_of_bf16_squares)),
    of_function("norm_mean_bf16", "the norms' mean of squares is rounded to bf16", "keep the mean in float32",
                "norms of bf16 tensors", changes_at(*NORMS, function=narrow_results.norm_of(
                    narrow_arithmetic.bf16, narrow_results.unchanged, narrow_results.unchanged))),
    of_function("norm_inverse_bf16", "the norms' inverse root is rounded to bf16", "keep the inverse root in float32",
                "norms of bf16 tensors", changes_at(*NORMS, function=narrow_results.norm_of(
                    narrow_results.unchanged, narrow_arithmetic.bf16, narrow_results.unchanged))),
    of_function("norm_sum_bf16", "the norms' sum of squares is rounded to bf16 again and again",
                "sum the squares in float32", "narrow vector units",
                changes_at(*NORMS, function=narrow_results.norm_of_bf16_sum)),
    of_function("norm_scale_float16", "the norms' gains are rounded to float16", "keep the gains in float32",
                "float16 loaders", changes_at(*NORMS, function=narrow_results.norm_of(
                    narrow_results.unchanged, narrow_results.unchanged, narrow_results.float16))),
    of_function("norm_scale_bf16", "the norms' gains are rounded to bf16", "keep the gains in float32", "tt-metal",
                changes_at(*NORMS, function=narrow_arithmetic.norm_by_bf16_gain)),
    of_function("gelu_bf16", "every step of gelu is rounded to bf16", "compute gelu in float32 and round its result",
                "elementwise bf16 kernels", activated_by(narrow_arithmetic.gelu_in_bf16)),
    of_function("scores_bf16", "scale, cap and their steps are rounded to bf16",
                "scale and cap the attention logits in float32", "transformers' Gemma 2, eager",
                changes_at("attention.logits", function=narrow_arithmetic.scores_in_bf16)),
    of_function("query_key_int8", "queries and keys are int8 in their product",
                "multiply queries and keys of the compute dtype", "SageAttention",
                changes_at("attention.logits", function=narrow_arithmetic.logits_in_int8)),
    of_function("softmax_steps_bf16", "every step of the softmax is rounded to bf16",
                "take the softmax in float32", "eager bf16 ports",
                changes_at("attention.weights",
                           function=narrow_arithmetic.softmax_steps_in_bf16(narrow_arithmetic.bf16))),
    of_function("softmax_inner_bf16", "what the softmax works out of float32 logits is rounded to bf16, step by step",
                "take the softmax in float32", "bf16 decode kernels",
                changes_at("attention.weights",
                           function=narrow_arithmetic.softmax_steps_in_bf16(narrow_results.unchanged))),
    of_function("softmax_exp_approximate", "the softmax's exponential is a straight line between powers of two",
                "use an exponential that is exact to float32", "fast-math kernels (Schraudolph)",
                changes_at("attention.weights", function=narrow_arithmetic.softmax_by_bits)),
    of_function("attention_weights_fp8", "attention weights are fp8 in their product with values",
                "multiply attention weights of the compute dtype", "FlashAttention 3 in fp8",
                changes_at("attention.heads", function=narrow_arithmetic.averaged_in_fp8)),
    *(of_function(f"heads_accumulated_in_bf16_every_{every}",
                  f"the sum of p·V is rounded to bf16 after every {every} slots", "accumulate p·V in float32",
                  "mlir-air#1606",
                  changes_at("attention.heads", function=narrow_arithmetic.averaged_in_bf16(every)))
      for every in (1, 16, 32, 64)),
    of_function("rope_bf16", "cos, sin, products and sum of rope are rounded to bf16",
                "rotate in float32 and round once", "transformers in bf16",
                changes_at(*ROTATIONS, function=narrow_arithmetic.rotated_in_bf16)),
    *(of_function(f"rope_{what}_{digits}", f"the {words} of rope are rounded to {digits}",
                  "work phases out in float32", "buffers cast with a model",
                  changes_at(*ROTATIONS, function=narrow_results.rotated_by(frequency, phase)))
      for what, words, digits, frequency, phase in (
          ("phase", "phases", "bf16", narrow_results.unchanged, narrow_arithmetic.bf16),
          ("frequency", "frequencies", "bf16", narrow_arithmetic.bf16, narrow_results.unchanged),
          ("frequency", "frequencies", "float16", narrow_results.float16, narrow_results.unchanged))),
    of_function("attention_logits_bf16", "capped attention logits are rounded to bf16",
                "keep attention logits in float32 up to the softmax", "eager bf16 ports",
                changes_at("attention.logits", function=narrow_results.result_of(
                    attention.attention_logits, narrow_arithmetic.bf16, anywhere=True))),
    of_function("results_bf16", "results of a float32 port are rounded to bf16", "let no operation cast to bf16",
                "a cast left in a float32 port",
                {name: Change(function=narrow_results.result_of(GROK_1.by_name[name].function, narrow_arithmetic.bf16))
                 for name in IN_FLOAT32}),
    of_function("rope_position_float16", "positions and phases are float16", "work phases out in float32",
                "float16 ports", changes_at(*ROTATIONS, function=narrow_arithmetic.rotated_by_half_phase)),
    of_function("cache_fp8", "the cache stores fp8", "store keys and values in the compute dtype",
                "vLLM with fp8 caches",
                changes_at(*CACHES, function=narrow_arithmetic.cached_as(narrow_arithmetic.to_fp8))),
    of_function("cache_int8", "the cache stores int8 with a scale per head and token",
                "store keys and values in the compute dtype", "LMDeploy",
                changes_at(*CACHES, function=narrow_arithmetic.cached_as(narrow_arithmetic.int8_per_token))),
    of_cache_read("cache_read_int8", "keys and values are read as int8 with a scale per head and token",
                  "LMDeploy, TensorRT-LLM", "int8"),
    of_cache_read("cache_read_int8_in_blocks", "keys and values are read as int8 in blocks of 32",
                  "llama.cpp with -ctk q8_0", "int8_block32"),
    of_cache_read("cache_read_fp8", "keys and values are read as fp8 with a scale per head and token",
                  "vLLM with fp8 caches", "fp8"),
    of_cache_read("cache_read_fp8_unscaled", "keys and values are read as fp8 without a scale",
                  "vLLM with fp8 caches", "fp8_unscaled"),
    of_function("gate_on_input", "the gates multiply the experts' input instead of their output",
                "multiply the experts' outputs by the gates", "Llama 4's layer",
                {**dict.fromkeys(("moe.expert_activation", "moe.expert_up"),
                                 Change(function=narrow_arithmetic.expert_in_of_gated,
                                        inputs=("moe.norm", "moe.expert_index", "moe.expert_gate"))),
                 "moe.output": Change(function=narrow_arithmetic.combined_without_gates)}),
)  # fmt: skip

FAULTS = (*OF_PRODUCTS, *OF_FUNCTIONS)
