"""Sums as tensor cores make them: products in blocks, aligned to the largest of them and cut off.

Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores (2021): products are exact; those of a block
and the sum so far are cut off at a common place some bits below the largest, and what they add up to is truncated to
float32. How many products a block has, and how many bits more than float32 they keep, depends on the generation.
"""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import contract
from grok_conformance.harness.graph.rounding import Point
from grok_conformance.harness.graph.row import Exact

FLOAT32_BITS = 24

TENSOR_CORE = Point(
    "tensor core",
    {
        "none": "",
        **{
            f"{block} with {bits}": f"blocks of {block} products truncated {where}, as tensor cores do"
            for bits, where in (
                (24, "to float32"),
                (25, "one bit below float32"),
                (26, "two bits below float32"),
                (27, "three bits below float32"),
            )
            for block in (4, 8, 16, 32)
        },
    },
    narrow=False,
    slow=True,
)
"""Blocks and bits: 4 with 24 are Volta's, 8 with 25 those of Turing and Ampere, 16 with 26 Hopper's."""


def contract_on_tensor_core(x: Array, w: Array, choice: str) -> Exact:
    """Multiply x [..., k] by w [k, n] as `TENSOR_CORE` says, with the error that a float32 accumulation has besides."""
    block, _, bits = choice.partition(" with ")
    rows = x.reshape(-1, x.shape[-1])  # [m, k]
    total = np.zeros((len(rows), w.shape[-1]))  # [m, n]
    for start in range(0, len(w), int(block)):
        at = slice(start, start + int(block))
        addends = np.concatenate([total[:, None], rows[:, at, None] * w[at]], 1)  # [m, block + 1, n]
        largest = np.abs(addends).max(1, keepdims=True)
        total = cut(cut(addends, largest, int(bits)).sum(1), None, FLOAT32_BITS)
    exact = contract(x, w)
    return Exact(total.reshape(exact.value.shape), spread=exact.spread)


def cut(x: Array, largest: Array | None, num_bits: int) -> Array:
    """Cut x off so many bits below the leading one of the largest, of x itself where that is None."""
    _, exponent = np.frexp(x if largest is None else largest)
    kept: Array = np.ldexp(np.trunc(np.ldexp(x, num_bits - exponent)), exponent - num_bits)
    return kept
