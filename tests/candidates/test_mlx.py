from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import Unsupported, tap_names
from tests.candidates.tiny_models import CONFIG, MODELS, ints, random_tokens, random_weights
from tests.candidates.tiny_models import load as load_eager
from tests.harness.honest_port import NUM_ELEMENTS, at_fault, golden_case

pytest.importorskip("mlx.core", reason="needs the extra mlx")
TOKENS, LENGTHS = random_tokens(2, 5), ints(5, 3)


@pytest.fixture
def mlx() -> ModuleType:
    from grok_conformance.candidates import mlx  # noqa: PLC0415 - beside the other engines only where it is installed

    return mlx


@pytest.mark.parametrize("case_id", ["unequal/prefill/padded_batch.bfloat16", "unequal/prefill/padded_batch.float32"])
def test_every_operation_of_a_padded_batch_is_right(mlx: ModuleType, case_id: str) -> None:
    preset, case = golden_case(case_id)
    model = mlx.load(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    shown = model.prefill(case.calls[0].tokens, case.calls[0].lengths, tap_names(preset.config))
    exhibit = exhibit_of(preset, case, mlx.INFO, {tap_key(0, tap): value for tap, value in shown.items()})
    found = check_case(exhibit, num_elements=NUM_ELEMENTS)
    assert len(found) == len(tap_names(preset.config))
    assert at_fault(found) == set()


@pytest.mark.parametrize("name", MODELS)
def test_weights_stored_in_any_way_give_the_logits_of_the_torch_port(mlx: ModuleType, name: str) -> None:
    config, num_groups, scales_dtype = MODELS[name]
    model, eager = mlx.load(config, random_weights(config, num_groups, scales_dtype)), load_eager(name)
    for call in ("prefill", "extend"):  # a chunk goes on from the cache
        observed, expected = (getattr(each, call)(TOKENS, LENGTHS, ("logits",))["logits"] for each in (model, eager))
        assert np.allclose(observed[:, :3], expected[:, :3], rtol=1e-5, atol=1e-6)


def test_a_query_that_sees_no_key_averages_the_slots_up_to_the_end_of_its_call(mlx: ModuleType) -> None:
    visible, blind = mlx.visible_keys(np.array([[False, True]]), ints(1), 4)
    assert visible.tolist() == [[[True, False, False, False], [True, False, True, False]]]
    assert blind.tolist() == [[[True, True, True, False]]]
    visible, blind = mlx.visible_keys(np.array([[False]]), ints(1), 4)
    assert not visible.any()
    assert blind.all()


def test_what_it_cannot_run_is_refused(mlx: ModuleType) -> None:
    weights = random_weights(CONFIG, 1, "bfloat16")
    with pytest.raises(Unsupported, match="float16"):
        mlx.load(replace(CONFIG, fprop_dtype="float16"), weights)
    model = mlx.load(CONFIG, weights)
    with pytest.raises(ValueError, match="call prefill or preload first"):
        model.decode(ints(1)[:, None], ("logits",))
    with pytest.raises(ValueError, match="token 37 in row 0 at position 1"):
        model.prefill(ints(5, 37)[None], ints(2), ("logits",))
    with pytest.raises(ValueError, match="row 0: 20 more tokens"):
        model.prefill(random_tokens(1, 20), ints(20), ("logits",))
