"""What the harness itself costs, each against a yardstick of the same run: `nox -s bench` (pytest-benchmark).

The gates are ratios of the least of some times that took turns with their yardstick: what else the machine does only
adds. Only the start of the command line has a limit in seconds. `-- --gate` runs these alone.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import reference
from candidates import torch_eager
from harness.blocks import Block, find
from harness.cases import Call, Case, Preset, tap_key
from harness.commands.list import TABLES
from harness.contract import GOLDEN_DIR, Array, Weights
from harness.local import check_case, gather
from harness.noise import fence_of, tail_factor
from harness.operations.row import Exact
from harness.oracle import ExactWeights
from harness.store import open_golden, read_taps
from harness.tensors import digest, open_tensors
from tests.benchmarks.gates import assert_ratio, assert_seconds
from tests.benchmarks.presets import LOADS, prompt, write_load

LOAD = LOADS["bench"]
NUM_ELEMENTS = 2**26

MAX_CAPTURE = 1.10
"""Of the time of a forward pass with all taps on the host to one without."""
MAX_COMPARISON = 1.0
"""Of the time of all statistics to numpy.testing.assert_allclose on the same arrays."""
MAX_LOCAL_CHECK = 5.0
"""Of the local check of every operation to the float32 forward pass of the port that is checked."""
MAX_FAST_PORT = 1.0
"""Of the prefill of `jax_grouped` to that of the reference."""
MAX_START_SECONDS = 0.4
"""Of `--help`, every `list` and `explain`: the only limit that is no ratio."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return open_tensors(write_load(LOAD, tmp_path_factory.mktemp("bench")) / "weights.safetensors")


@pytest.fixture(scope="module")
def params(weights: Weights) -> reference.Params:
    from candidates.reference import parameter_tree  # noqa: PLC0415 - beside the other engines only where it is needed

    return parameter_tree(weights)


@pytest.mark.gate
def test_capture_with_all_taps_on_the_host_is_nearly_free(params: reference.Params) -> None:
    tokens = prompt(LOAD)

    def untapped() -> Any:
        return jax.block_until_ready(reference.apply(reference.PRESETS["bench"], params, tokens))

    def tapped() -> dict[str, Array]:
        _, taps = reference.apply_with_taps(reference.PRESETS["bench"], params, tokens)
        return {name: np.asarray(value) for name, value in taps.items()}

    assert_ratio(tapped, untapped, MAX_CAPTURE)


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
def test_all_statistics_of_64_million_elements_take_no_longer_than_assert_allclose() -> None:
    expected, observed = two_arrays(NUM_ELEMENTS)
    assert_ratio(
        lambda: all_statistics(expected, observed),
        lambda: np.testing.assert_allclose(observed, expected, rtol=0.01),
        MAX_COMPARISON,
        num_rounds=2,
    )


@pytest.mark.gate
def test_the_local_check_of_every_operation_takes_few_forward_passes(weights: Weights) -> None:
    config = replace(LOAD.config, fprop_dtype="float32")
    preset = Preset("bench", config, weights)
    call = Call("prefill", prompt(LOAD), np.array([LOAD.num_tokens], np.int32))
    case = Case(
        id="bench/prefill/long.float32", preset="bench", fprop_dtype="float32", why="", origin="", calls=(call,)
    )
    model = torch_eager.load(config, preset.weights)
    taps = {tap_key(0, name): x for name, x in model.prefill(call.tokens, call.lengths, ("*",)).items()}
    evidence = gather(preset, case, torch_eager.INFO, taps)
    exact = ExactWeights(config, preset.weights)
    assert_ratio(
        lambda: check_case(preset, case, evidence, num_elements=10**8, weights=exact),
        lambda: model.prefill(call.tokens, call.lengths, ("logits",)),
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
)
def test_the_command_line_starts_at_once(words: tuple[str, ...]) -> None:
    def start(*command: str) -> None:
        subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=Path(__file__).parents[2])  # noqa: S603 - this interpreter

    assert_seconds(lambda: start("-m", *words), MAX_START_SECONDS)


@pytest.mark.gate
def test_the_fast_port_is_faster_than_the_reference(weights: Weights, params: reference.Params) -> None:
    from candidates import jax_grouped  # noqa: PLC0415 - beside the other engines only where it is needed

    model, tokens, lengths = jax_grouped.load(LOAD.config, weights), prompt(LOAD), np.array([LOAD.num_tokens], np.int32)
    assert_ratio(
        lambda: model.prefill(tokens, lengths, ("logits",)),
        lambda: jax.block_until_ready(reference.apply(reference.PRESETS["bench"], params, tokens)),
        MAX_FAST_PORT,
    )


# Figures without a gate


def test_digesting_64_mebibytes(benchmark: BenchmarkFixture) -> None:
    data = np.ones(2**26, np.int8)
    benchmark.extra_info["bytes"] = data.nbytes
    benchmark(digest, data)


def test_comparing_4_million_elements(benchmark: BenchmarkFixture) -> None:
    benchmark(all_statistics, *two_arrays(2**22))


def test_assert_allclose_of_4_million_elements(benchmark: BenchmarkFixture) -> None:
    expected, observed = two_arrays(2**22)
    benchmark(np.testing.assert_allclose, observed, expected, rtol=0.01)


def test_torch_assert_close_of_4_million_elements(benchmark: BenchmarkFixture) -> None:
    import torch  # noqa: PLC0415 - beside the other engines only where it is needed

    expected, observed = (torch.tensor(x.view(np.int16)).view(torch.bfloat16) for x in two_arrays(2**22))
    benchmark(torch.testing.assert_close, observed, expected, rtol=0.01, atol=0.0)


def test_reading_a_golden_case(benchmark: BenchmarkFixture) -> None:
    golden = open_golden(GOLDEN_DIR / "v1")
    case = min(golden.manifest.cases)
    benchmark(lambda: {name: np.array(x) for name, x in read_taps(golden, case).items()})
