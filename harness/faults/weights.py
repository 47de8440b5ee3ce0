"""Faults of the weights: a right function that reads a leaf wrongly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from grok_conformance.harness.contract import Array, Weights
from grok_conformance.harness.faults import functions
from grok_conformance.harness.faults.fault import Fault, Reading, changes_at

GROUPED = ("attention.output", "moe.expert_output", "dense.output")
"""Operations with row-parallel weights, which have G groups of scales."""

EXPERTS = ("moe.expert_activation", "moe.expert_up", "moe.expert_output")
QUANTISED = (
    "attention.query", "attention.key", "attention.value", "attention.output",
    *EXPERTS, "dense.activation", "dense.up", "dense.output",
)  # fmt: skip
LAYER_NORMS = ("attention.norm", "attention.output_norm", "moe.norm", "moe.output_norm")


def leaf(stored: Weights, name: str) -> Weights:
    """Return one stored leaf, plain or int8 with its scales."""
    return {key: stored[key] for key in (name, f"{name}.weight", f"{name}.scales") if key in stored}


def scales_read(change: Callable[[Array, int], Array]) -> Reading:
    """Return a reading whose scales are `change(scales [.., G, n], number of rows k)`; plain leaves are right."""

    def reading(stored: Weights, name: str) -> Weights:
        right = leaf(stored, name)
        if name in right:
            return right
        weight, scales = right[f"{name}.weight"], right[f"{name}.scales"]
        return {**right, f"{name}.scales": change(scales, weight.shape[-2])}

    return reading


def first_row(scales: Array, _num_rows: int) -> Array:
    """Use the first row of the scales for every group."""
    return scales[..., :1, :]


def interleaved(scales: Array, num_rows: int) -> Array:
    """Scale row k by group k mod G."""
    return scales[..., np.arange(num_rows) % scales.shape[-2], :]


def read_as_groups_first(scales: Array, _num_rows: int) -> Array:
    """Read the memory of [e, G, n] as [G, e, n]; with e = G this exchanges the two axes."""
    num_experts, num_groups, n = scales.shape
    return np.swapaxes(scales.reshape(num_groups, num_experts, n), 0, 1)


def leaf_read(change: Callable[[Array], Array]) -> Reading:
    """Return a reading that changes every tensor of a leaf."""
    return lambda stored, name: {key: change(x) for key, x in leaf(stored, name).items()}


def weight_read(change: Callable[[Array], Array]) -> Reading:
    """Return a reading that changes the matrix of a leaf, not its scales."""

    def reading(stored: Weights, name: str) -> Weights:
        return {key: x if key.endswith(".scales") else change(x) for key, x in leaf(stored, name).items()}

    return reading


def unsigned(weight: Array) -> Array:
    """Take int8 for uint8."""
    return weight.view(np.uint8) if weight.dtype == np.int8 else weight


def read_from(other: Callable[[str], str]) -> Reading:
    """Return a reading that takes the leaf of another name."""

    def reading(stored: Weights, name: str) -> Weights:
        source = other(name)
        found = leaf(stored, source) or leaf(stored, name)
        return {key.replace(source, name): x for key, x in found.items()}

    return reading


def neighbouring_layer(name: str) -> str:
    """Return the name of the same leaf in the layer next to it: 0 and 1 exchanged, 2 and 3, …."""
    head, _, tail = name.partition("decoder_layer_")
    layer, _, rest = tail.partition("/")
    return f"{head}decoder_layer_{int(layer) ^ 1}/{rest}"


def exchanged_norm(name: str) -> str:
    """Return the post-attention norm for the pre-MoE norm, and the other way round."""
    path, _, scale = name.rpartition("/")
    return f"{path[:-1]}{'2' if path.endswith('_1') else '1'}/{scale}"


FAULTS = (
    Fault(
        id="experts_permuted",
        kind="weights",
        title="the experts' ids are shifted by one",
        remedy="load expert e as expert e: the ids are shifted by one",
        explanation=(
            "Expert i of the router is row i of the expert weights; a shard that starts counting elsewhere shifts them."
        ),
        provenance="vllm-gaudi#1796",
        changes=changes_at(*EXPERTS, reading=leaf_read(lambda x: np.roll(x, -1, axis=0))),
    ),
    Fault(
        id="expert_transposed",
        kind="weights",
        title="linear_1 of the experts is read transposed",
        remedy="transpose linear_1 of the experts on loading: it is stored [f, d]",
        explanation="It is stored as [e, f, d], input axis first; torch's linear layers store the output axis first.",
        provenance="transformers#47671",
        changes=changes_at("moe.expert_output", function=functions.transposed_out),
    ),
    Fault(
        id="head_untied",
        kind="weights",
        title="the logits are zero: the output matrix is not the embedding table and was never filled",
        remedy="use the embedding table, transposed, as the output matrix, or find what else leaves the logits zero",
        explanation=(
            "Logits are h · embeddingsᵀ: the table is shared. A separate output matrix that no checkpoint fills "
            "stays zero."
        ),
        provenance="transformers#43429",
        changes=changes_at("logits", reading=leaf_read(np.zeros_like)),
    ),
    Fault(
        id="norms_exchanged",
        kind="weights",
        title="rms_norm_1 and rms_norm_2 are exchanged",
        remedy="exchange rms_norm_1 and rms_norm_2: the second is the norm of the experts' input",
        explanation="rms_norm_1 comes after attention, before the residual add; rms_norm_2 before the experts.",
        provenance="grok-ozempic PR#57",
        changes=changes_at("attention.output_norm", "moe.norm", reading=read_from(exchanged_norm)),
        shown_by=("realistic/prefill/near_ties.*",),
    ),
    Fault(
        id="scales_per_shard_broadcast",
        kind="weights",
        title="the first row of scales is used for every group",
        remedy="read every row of scales, one for each group of rows of the weight",
        explanation="Scales are [G, n]: each of G contiguous groups of input rows has its own row of scales.",
        provenance="xai-org/grok-1 PR#265",
        changes=changes_at(*GROUPED, reading=scales_read(first_row)),
    ),
    Fault(
        id="scales_interleaved",
        kind="weights",
        title="the groups of scales are interleaved",
        remedy="give row k of a weight the scales of group k // (K / G): groups are contiguous",
        explanation="Row k belongs to group k // (K/G): groups are contiguous, not k mod G.",
        provenance="fault catalogue",
        changes=changes_at(*GROUPED, reading=scales_read(interleaved)),
    ),
    Fault(
        id="scales_axis_swapped",
        kind="weights",
        title="scales [e, G, d] are read as [G, e, d]",
        remedy="read the scales of the experts as [e, G, n], without exchanging axes",
        explanation="The expert axis comes first; at true size e = G = 8, and the swap is shape-legal.",
        provenance="vllm#47116",
        changes=changes_at("moe.expert_output", reading=scales_read(read_as_groups_first)),
    ),
    Fault(
        id="int8_as_uint8",
        kind="weights",
        title="int8 weights are read as uint8",
        remedy="read the weights as signed int8",
        explanation="Quantised weights are signed.",
        provenance="fault catalogue",
        changes=changes_at(*QUANTISED, reading=weight_read(unsigned)),
    ),
    Fault(
        id="weights_two_layers_exchanged",
        kind="weights",
        title="two layers have each other's weights",
        remedy="load each layer's weights by its number, not by the order of names (10 before 2)",
        explanation="Leaves are sorted as strings in the checkpoint: layer 10 comes before layer 2.",
        provenance="DeepSpeed#8452",
        changes=changes_at(*LAYER_NORMS, *QUANTISED, "router.logits", reading=read_from(neighbouring_layer)),
    ),
)
