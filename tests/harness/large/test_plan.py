"""Plans of large captures: what is called, and what each stage holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large import store
from grok_conformance.harness.large.plan import Plan, make_calls, read_plan
from tests.harness.large.tiny_capture import TOKENS, make_plan


def test_a_plan_reads_back_as_it_was_written(tmp_path: Path) -> None:
    plan = make_plan(form="sketch", seed=2**64 - 1)
    store.begin(tmp_path, plan)
    assert read_plan(tmp_path).to_json() == plan.to_json()


def test_the_last_tokens_are_decoded_one_by_one() -> None:
    calls = make_calls(TOKENS, 2)
    assert [call.kind for call in calls] == ["prefill", "decode", "decode"]
    np.testing.assert_array_equal(np.concatenate([call.tokens for call in calls], axis=1), TOKENS)
    assert [call.lengths.tolist() for call in calls] == [[3, 3], [1, 1], [1, 1]]


@pytest.mark.parametrize("num_decoded", [-1, 5, 6])
def test_something_is_left_for_the_prefill(num_decoded: int) -> None:
    with pytest.raises(FileError, match="at least one must be left"):
        make_calls(TOKENS, num_decoded)


def test_every_layer_of_a_plan_has_its_stage() -> None:
    plan: Plan = make_plan(num_layers=2)
    assert plan.stages == ("embedding", "layers.00", "layers.01")
    assert [len(plan.taps(stage)) for stage in plan.stages] == [1, 26, 26]


def test_what_is_small_or_cached_is_kept_whole_in_every_form() -> None:
    plan = make_plan(form="sketch")
    kept = [tap for tap in plan.taps("layers.00") if plan.form_of(tap) == "full"]
    assert [tap.removeprefix("layers.00.") for tap in kept] == [
        "kv.keys", "kv.values", "router.logits", "router.probabilities", "moe.expert_index", "moe.expert_gate"
    ]  # fmt: skip
    assert [plan.form_of(tap) for tap in ("embedding", "logits")] == ["sketch", "sketch"]
