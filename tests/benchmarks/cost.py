"""What a call costs at least: floating-point operations and bytes of every operation, for a benchmark's roofline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from grok_conformance.harness.contract import DTYPES, LanguageModelConfig, Weights, split_tap, tap_names
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.row import Operation


@dataclass(frozen=True)
class Cost:
    """Work that no implementation avoids.

    `flops` counts a multiplication and an addition each; `weight_bytes` are stored weights read once, of the experts
    only as many as tokens can choose; `value_bytes` are the results that an unfused program writes.
    """

    flops: int
    weight_bytes: int
    value_bytes: int

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both."""
        return Cost(
            self.flops + other.flops,
            self.weight_bytes + other.weight_bytes,
            self.value_bytes + other.value_bytes,
        )


def operation_costs(config: LanguageModelConfig, weights: Weights, num_rows: int, num_tokens: int) -> dict[str, Cost]:
    """Return the cost of every tap of a call of [num_rows, num_tokens] tokens, attention over the whole cache.

    Elementwise operations and norms count as no flops: they are bound by the bytes.
    """
    sizes = {**config.axis_sizes, "b": num_rows, "t": num_tokens}
    costs = {}
    for tap in tap_names(config):
        products = GROK_1.operation_of(tap, config).products
        stored = sum(stored_bytes(weights, name) for name in GROK_1.weight_names(tap, config))
        costs[tap] = Cost(
            flops=2 * math.prod(sizes[axis] for axis in products) if products else 0,
            weight_bytes=int(stored * fraction_read(GROK_1.operation_of(tap, config), sizes)),
            value_bytes=math.prod(sizes[axis] for axis in GROK_1.specs[split_tap(tap)[1]].axes)
            * DTYPES[config.fprop_dtype].itemsize,
        )
    return costs


def stored_bytes(weights: Weights, name: str) -> int:
    """Return the bytes of a stored weight, its scales included."""
    return sum(weights[part].nbytes for part in (name, f"{name}.weight", f"{name}.scales") if part in weights)


def fraction_read(operation: Operation, sizes: Mapping[str, int]) -> float:
    """Return how much of its weights an operation reads: of the table a row per token, of the experts the chosen."""
    num_tokens = sizes["b"] * sizes["t"]
    if operation.looks_up:
        return min(1.0, num_tokens / sizes["v"])
    if "c" in operation.products:
        return min(1.0, num_tokens * sizes["c"] / sizes["e"])
    return 1.0


def call_cost(config: LanguageModelConfig, weights: Weights, num_rows: int, num_tokens: int) -> Cost:
    """Return the cost of a whole call."""
    return sum(operation_costs(config, weights, num_rows, num_tokens).values(), Cost(0, 0, 0))
