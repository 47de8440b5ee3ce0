"""Tasks of an expert: their values are the expert's, in whatever pieces, with however few workers."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grok_conformance.reference.checkpoint.pickles import Array, CheckpointError
from grok_conformance.reference.experts import ExpertWeights, run_expert
from grok_conformance.reference.quantization import QuantizedWeight8bit, quantize
from grok_conformance.reference.streaming.reading import Loan
from grok_conformance.reference.streaming.tasks import Rows, submit_expert

RANDOM = np.random.default_rng(0)
WEIGHTS = ExpertWeights(*(quantize(RANDOM.standard_normal(shape), 4) for shape in [(16, 24), (16, 24), (24, 16)]))
X = RANDOM.standard_normal((5, 16)).astype(jnp.bfloat16)
DTYPES = (jnp.bfloat16, jnp.bfloat16)
NAMES = ("expert_activation", "expert_up", "expert_hidden", "expert_output")


class Lender:
    """Lends the rows of a matrix, group by group, once they are asked to be read."""

    def __init__(self) -> None:
        self.returned: SimpleQueue[Array | None] = SimpleQueue()
        self.unread: list[tuple[Future[Loan], list[Array]]] = []

    def rows(self, matrix: QuantizedWeight8bit) -> list[Rows]:
        """Return a matrix in pieces of one group each."""
        height = matrix.shape[0] // 4
        found = []
        for i in range(4):
            part: list[Any] = [matrix.weight[i * height : (i + 1) * height], matrix.scales[i : i + 1]]
            self.unread.append((Future(), part))
            found.append(Rows(i * height, (i + 1) * height, self.unread[-1][0]))
        return found

    def read(self) -> None:
        """Let all rows be read, in order."""
        for future, arrays in self.unread:
            future.set_result(Loan(arrays, arrays[0], self.returned))


@pytest.mark.parametrize("num_workers", [1, 2, 16])
def test_pieces_give_the_expert_s_values_and_all_memory_back(num_workers: int) -> None:
    lender = Lender()
    lent = ExpertWeights(*map(lender.rows, WEIGHTS))
    with ThreadPoolExecutor(num_workers) as workers:
        future = submit_expert(workers, X, lent, DTYPES, NAMES, jax.local_devices()[0])
        assert not future.done()
        lender.read()
        values = future.result()
    expected = run_expert(jnp.asarray(X), jax.tree.map(jnp.asarray, WEIGHTS))
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name].dtype == value.dtype
        np.testing.assert_allclose(values[name].astype(np.float64), np.asarray(value, np.float64), rtol=1e-2, atol=1e-2)
    exact = np.asarray(values["expert_hidden"], np.float64) @ np.asarray(dequantized(WEIGHTS.linear_1), np.float64)
    np.testing.assert_allclose(values["expert_output"], exact, rtol=1e-5, atol=1e-4)
    assert lender.returned.qsize() == 12


def dequantized(matrix: QuantizedWeight8bit) -> Array:
    """Return weight · scale, rounded to bfloat16."""
    wide = matrix.weight.astype(np.float32) * np.repeat(matrix.scales.astype(np.float32), matrix.shape[0] // 4, axis=0)
    return wide.astype(jnp.bfloat16)


def test_rows_that_cannot_be_read_fail_the_expert() -> None:
    lender = Lender()
    lent = ExpertWeights(*map(lender.rows, WEIGHTS))
    with ThreadPoolExecutor(2) as workers:
        future = submit_expert(workers, X, lent, DTYPES, NAMES, jax.local_devices()[0])
        lender.unread.pop(5)[0].set_exception(CheckpointError("truncated"))
        lender.read()
        with pytest.raises(CheckpointError, match="truncated"):
            future.result()
    assert lender.returned.qsize() == 11


def test_an_expert_keeps_nothing_but_what_is_asked_of_it() -> None:
    lender = Lender()
    lent = ExpertWeights(*map(lender.rows, WEIGHTS))
    with ThreadPoolExecutor(2) as workers:
        future = submit_expert(workers, X, lent, DTYPES, ("expert_output",), jax.local_devices()[0])
        lender.read()
        assert list(future.result()) == ["expert_output"]
