"""What the harness itself costs, each against a yardstick of the same run: `nox -s bench` (pytest-benchmark).

The gates are ratios of the least of some times that took turns with their yardstick: what else the machine does only
adds. Only the start of the command line has a limit in seconds. `-- --gate` runs these alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from grok_conformance import reference
from grok_conformance.candidates import numpy_float64, torch_eager
from grok_conformance.harness.cases.case import Call, Case, Preset, tap_key
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.commands.list import TABLES
from grok_conformance.harness.contract import GOLDEN_DIR, Array, Weights
from grok_conformance.harness.formats.tensors import digest, open_tensors
from grok_conformance.harness.golden.reading import open_golden, read_taps
from grok_conformance.harness.graph.oracle import ExactWeights
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.blocks import Block
from grok_conformance.harness.measure.noise import fence_of, tail_factor
from grok_conformance.harness.measure.scan import find
from tests.benchmarks.gates import Action, Record, assert_ratio, assert_seconds
from tests.benchmarks.presets import LOADS, prompt, write_load

Measure = Callable[[int, Action], None]

LOAD = LOADS["bench"]
NUM_ELEMENTS = 2**26

MAX_CAPTURE = 1.10
"""Of the time of a forward pass with all taps on the host to one without."""
MAX_COMPARISON = 1.0
"""Of the time of all statistics to numpy.testing.assert_allclose on the same arrays."""
MAX_LOCAL_CHECK = 2.5
"""Of the local check of every operation to a forward pass in float64, by `numpy_float64`: so the oracle computes, too.

A pass of the port that is checked was the yardstick until that port took a third of its time.
"""
MAX_FAST_PORT = 1.0
"""Of the prefill of `jax_grouped` to that of the reference."""
MAX_START_SECONDS = 0.4
"""Of `--help`, every `list` and `explain`: the only limit that is no ratio."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return open_tensors(write_load(LOAD, tmp_path_factory.mktemp("bench")) / "weights.safetensors")


@pytest.fixture(scope="module")
def params(weights: Weights) -> reference.Params:
    from grok_conformance.candidates.reference import parameter_tree  # noqa: PLC0415 - beside the other engines only where it is needed

    return parameter_tree(weights)


@pytest.mark.gate
def test_capture_with_all_taps_on_the_host_is_nearly_free(params: reference.Params, record_property: Record) -> None:
    tokens = prompt(LOAD)

    def untapped() -> Any:
        return jax.block_until_ready(reference.apply(reference.PRESETS["bench"], params, tokens))

    def tapped() -> dict[str, Array]:
        _, taps = reference.apply_with_taps(reference.PRESETS["bench"], params, tokens)
        return {name: np.asarray(value) for name, value in taps.items()}

    assert_ratio(record_property, tapped, untapped, MAX_CAPTURE)


def two_arrays(num: int) -> tuple[Array, Array]:
    expected = np.random.default_rng(0).standard_normal(num).astype(np.float32).astype(ml_dtypes.bfloat16)
    flipped = np.random.default_rng(1).integers(0, 16, num, dtype=np.uint8) == 0  # one in sixteen errs by its last bit
    return expected, (expected.view(np.uint16) ^ flipped).view(ml_dtypes.bfloat16)


def all_statistics(expected: Array, observed: Array) -> object:
    factor, mask = tail_factor(expected.size), np.ones(expected.size, bool)

    def block(stretch: slice) -> Block:
        exact = Exact(expected[stretch].astype(np.float64))
        return Block(observed[stretch].astype(np.float64), exact, fence_of(exact, "bfloat16", factor), mask[stretch])

    return find(expected.size, block, "bfloat16")


@pytest.mark.gate
def test_all_statistics_of_64_million_elements_take_no_longer_than_assert_allclose(record_property: Record) -> None:
    expected, observed = two_arrays(NUM_ELEMENTS)
    assert_ratio(
        record_property,
        lambda: all_statistics(expected, observed),
        lambda: np.testing.assert_allclose(observed, expected, rtol=0.01),
        MAX_COMPARISON,
        num_rounds=2,
    )


@pytest.mark.gate
def test_the_local_check_of_every_operation_takes_few_passes_in_float64(
    weights: Weights, record_property: Record
) -> None:
    config = replace(LOAD.config, fprop_dtype="float32")
    preset = Preset("bench", config, weights)
    call = Call("prefill", prompt(LOAD), np.array([LOAD.num_tokens], np.int32))
    case = Case(
        id="bench/prefill/long.float32", preset="bench", fprop_dtype="float32", why="", origin="", calls=(call,)
    )
    model = torch_eager.load(config, preset.weights)
    exact = numpy_float64.load(config, preset.weights)
    taps = {tap_key(0, name): x for name, x in model.prefill(call.tokens, call.lengths, ("*",)).items()}
    exhibit = exhibit_of(preset, case, torch_eager.INFO, taps, ExactWeights(config, preset.weights))
    assert_ratio(
        record_property,
        lambda: check_case(exhibit, num_elements=10**8),
        lambda: exact.prefill(call.tokens, call.lengths, ("logits",)),
        MAX_LOCAL_CHECK,
        num_rounds=3,
    )


@pytest.mark.gate
@pytest.mark.parametrize(
    "words",
    [
        ("harness", "--help"),
        *(("harness", "list", what) for what in TABLES),
        ("harness", "explain", "gelu_erf"),
        ("harness", "run", "--help"),
        ("reference", "--help"),
    ],
    ids=" ".join,
)
def test_the_command_line_starts_at_once(words: tuple[str, ...], record_property: Record) -> None:
    def start(*command: str) -> None:
        subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=Path(__file__).parents[2])  # noqa: S603 - this interpreter

    assert_seconds(record_property, lambda: start("-m", *words), MAX_START_SECONDS)


@pytest.mark.gate
def test_the_fast_port_is_faster_than_the_reference(
    weights: Weights, params: reference.Params, record_property: Record
) -> None:
    from grok_conformance.candidates import jax_grouped  # noqa: PLC0415 - beside the other engines only where it is needed

    model, tokens, lengths = jax_grouped.load(LOAD.config, weights), prompt(LOAD), np.array([LOAD.num_tokens], np.int32)
    assert_ratio(
        record_property,
        lambda: model.prefill(tokens, lengths, ("logits",)),
        lambda: jax.block_until_ready(reference.apply(reference.PRESETS["bench"], params, tokens)),
        MAX_FAST_PORT,
    )


# Figures without a gate


@pytest.fixture
def measure(benchmark: BenchmarkFixture, record_property: Record) -> Measure:
    """Return a function that measures how fast an action goes through so many bytes."""

    def measured(num_bytes: int, action: Action) -> None:
        benchmark(action)
        assert benchmark.stats is not None
        record_property("measured", f"{num_bytes / benchmark.stats.stats.median / 1e9:.2f} GB/s")

    return measured


def test_digesting_64_mebibytes(measure: Measure) -> None:
    data = np.ones(2**26, np.int8)
    measure(data.nbytes, lambda: digest(data))


def test_comparing_4_million_elements(measure: Measure) -> None:
    expected, observed = two_arrays(2**22)
    measure(expected.nbytes + observed.nbytes, lambda: all_statistics(expected, observed))


def test_assert_allclose_of_4_million_elements(measure: Measure) -> None:
    expected, observed = two_arrays(2**22)
    measure(expected.nbytes + observed.nbytes, lambda: np.testing.assert_allclose(observed, expected, rtol=0.01))


def test_torch_assert_close_of_4_million_elements(measure: Measure) -> None:
    import torch  # noqa: PLC0415 - beside the other engines only where it is needed

    arrays = two_arrays(2**22)
    expected, observed = (torch.tensor(x.view(np.int16)).view(torch.bfloat16) for x in arrays)
    measure(sum(x.nbytes for x in arrays), lambda: torch.testing.assert_close(observed, expected, rtol=0.01, atol=0.0))


def test_reading_the_largest_golden_case(measure: Measure) -> None:
    golden = open_golden(GOLDEN_DIR / "v1")

    def read(case: str) -> dict[str, Array]:
        return {name: np.array(x) for name, x in read_taps(golden, case).items()}

    sizes = {case: sum(x.nbytes for x in read(case).values()) for case in golden.manifest.cases}
    largest = max(sizes, key=sizes.__getitem__)
    measure(sizes[largest], lambda: read(largest))
