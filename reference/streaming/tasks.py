"""One expert's values as tasks of a pool, a product for every piece that is read of its matrices (SPEC §4.6)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import jax
import numpy as np

from grok_conformance.reference.checkpoint.pickles import Array
from grok_conformance.reference.experts import ExpertWeights
from grok_conformance.reference.streaming.experts import gate, multiply
from grok_conformance.reference.streaming.files import stored_weight
from grok_conformance.reference.streaming.reading import Loan

Values = dict[str, Array]


class Rows(NamedTuple):
    """Rows start..stop of an expert's matrix, as they will be read: the weight, and its scales if it has any."""

    start: int
    stop: int
    loan: Future[Loan]


def submit_expert(
    workers: Executor,
    x: Array,
    matrices: ExpertWeights,
    dtypes: tuple[Any, Any],
    names: Collection[str],
    device: jax.Device,
) -> Future[Values]:
    """Return the named values of one expert for x [n, d], as `run_expert`, on the host; `matrices` are its `Rows`.

    `dtypes` are those of `expert_activation` and `expert_up`. The tasks are submitted in the order in which the rows
    are read, and each waits for earlier ones alone: with few workers and little memory, too, they come to an end.
    """

    def multiply_rows(rows: Rows, values: Callable[[], Array]) -> Array:
        with rows.loan.result() as arrays, jax.default_device(device):
            product = multiply(values()[:, rows.start : rows.stop], stored_weight(arrays), fprop_dtype=x.dtype)
            return np.asarray(product)

    def gate_sums(activation: Sequence[Future[Array]], up: Sequence[Future[Array]]) -> Values:
        products = [[product.result() for product in matrix] for matrix in (activation, up)]
        with jax.default_device(device):
            return {name: np.asarray(x) for name, x in gate(*products, dtypes=dtypes).items()}

    def wanted(output: Sequence[Future[Array]]) -> Values:
        values = gated.result() | {"expert_output": np.sum([product.result() for product in output], axis=0)}
        return {name: values[name] for name in names}

    activation, up = (
        [workers.submit(multiply_rows, rows, lambda: x) for rows in matrix]
        for matrix in (matrices.linear, matrices.linear_v)
    )
    gated = workers.submit(gate_sums, activation, up)
    output = [
        workers.submit(multiply_rows, rows, lambda: gated.result()["expert_hidden"]) for rows in matrices.linear_1
    ]
    return workers.submit(wanted, output)
