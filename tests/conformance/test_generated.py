"""Drawn models, batches and pads: every operation of the reference, the torch port and the oracle is as it must be."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_conformance.candidates.torch_eager import operations
from grok_conformance.harness.cases.case import Call, Case
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.laws.draws import Draw, fitted, preset_of, prompt_and_step, sequences_of
from grok_conformance.harness.running import python_runner
from grok_conformance.harness.running.answers import read_answer
from grok_conformance.harness.running.jobs import write_job

NUM_ELEMENTS = 10**7

DRAWS = st.builds(
    Draw,
    seed=st.integers(0, 2**32 - 1),
    fprop_dtype=st.sampled_from(["float32", "bfloat16"]),
    scales_dtype=st.sampled_from(["none", "float32", "bfloat16"]),
    num_layers=st.integers(1, 2),
    num_kv_heads=st.integers(1, 4),
    heads_per_kv_head=st.integers(1, 4),
    key_size=st.integers(2, 12),
    emb_size=st.integers(4, 48),
    widening_factor=st.integers(2, 4),
    num_experts=st.integers(1, 9),
    num_selected_experts=st.integers(1, 9),
    num_groups=st.sampled_from([1, 2, 4, 8, 16]),
    vocab_size=st.integers(8, 96),
    batch_size=st.integers(1, 3),
    num_tokens=st.integers(2, 9),
).map(fitted)
"""Models with top-k from 1 to all experts, dense ones too, any number of groups, and batches of unequal lengths."""


def drawn_case(draw: Draw) -> Case:
    """Return a prefill with right padding and pads inside, and a decoded token."""
    prefill, decode = prompt_and_step(draw, sequences_of(draw))
    random = np.random.default_rng((draw.seed, 9))
    tokens = np.where(random.random(prefill.tokens.shape) < 0.1, 0, prefill.tokens).astype(np.int32)
    return Case(
        id="drawn/generated/case",
        preset="drawn",
        fprop_dtype=draw.fprop_dtype,
        why="a drawn model",
        origin=__name__,
        calls=(Call("prefill", tokens, prefill.lengths), decode),
    )


def wrong_operations(engine: str, draw: Draw) -> list[str]:
    """Return the taps of an engine that are not what their operations give."""
    preset, case = preset_of(draw), drawn_case(draw)
    with tempfile.TemporaryDirectory() as scratch:
        job_dir, out_dir = Path(scratch, "job"), Path(scratch, "out")
        job_dir.mkdir()
        job = write_job(job_dir, "drawn", preset, [case])
        python_runner.main(engine, job_dir, out_dir)
        answer = read_answer(out_dir, job)[case.id]
        assert answer.status == "answered", answer.reason
        assert answer.info is not None
        exhibit = exhibit_of(preset, case, answer.info, answer.taps)
        comparisons = check_case(exhibit, num_elements=NUM_ELEMENTS)
    assert sum(comparison.num_elements for comparison in comparisons)
    return [f"{c.tap}: {c.problem or c.ratio}" for c in comparisons if not c.passed]


@pytest.mark.parametrize(
    "engine", ["grok_conformance.candidates.numpy_float64", "grok_conformance.candidates.torch_eager"]
)
@settings(max_examples=settings().max_examples // 2)
@given(draw=DRAWS)
def test_every_operation_of_an_engine_is_right_on_any_model(engine: str, draw: Draw) -> None:
    assert not wrong_operations(engine, draw)


@settings(max_examples=settings().max_examples // 25)  # each is compiled
@given(draw=DRAWS)
def test_every_operation_of_the_reference_is_right_on_a_few_models(draw: Draw) -> None:
    assert not wrong_operations("grok_conformance.candidates.reference", draw)


def test_a_wrong_operation_is_found_on_a_drawn_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "gelu", torch.nn.functional.silu)
    wrong = wrong_operations("grok_conformance.candidates.torch_eager", Draw(num_tokens=4, emb_size=8))
    assert [name.partition(":")[0] for name in wrong] == ["layers.00.moe.expert_hidden"] * 2
