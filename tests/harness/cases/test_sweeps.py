from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.cases.case import Case, steps_before
from grok_conformance.harness.cases.drawn import FPROP_DTYPES
from grok_conformance.harness.cases.sweeps import NARROW_BORDERS, SWEEPS, sweeps
from grok_conformance.harness.contract.grok_1 import EMBEDDINGS


def requests_of(name: str, seed: int = 3) -> dict[str, Case]:
    ((_, cases),) = sweeps(seed, f"sweep_{name}/*", "float32")
    return {case.id.partition("~")[0].rpartition("/")[2]: case for case in cases}


def test_every_sweep_has_its_requests_in_both_compute_dtypes() -> None:
    found = list(sweeps(0))
    for dtype in FPROP_DTYPES:
        own = [cases for _, cases in found if cases[0].fprop_dtype == dtype]
        assert [len(cases) for cases in own] == [len(sweep.requests) for sweep in SWEEPS]


def test_every_request_fits_the_cache_of_its_model() -> None:
    for preset, cases in sweeps(1):
        for case in cases:
            ends = [steps_before(case, i).max() + call.tokens.shape[1] for i, call in enumerate(case.calls)]
            assert max(ends) <= preset.config.sequence_len, case.id


def test_a_seed_repeats_all_that_is_drawn_and_another_changes_it() -> None:
    one, same, other = (requests_of("long", seed)["nine_rows"] for seed in (4, 4, 5))
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(one.calls, same.calls, strict=True))
    assert not np.array_equal(one.calls[0].tokens, other.calls[0].tokens)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_sweeps_are_in_the_compute_dtype_that_is_asked_for(dtype: str) -> None:
    assert {case.fprop_dtype for _, cases in sweeps(1, dtype=dtype) for case in cases} == {dtype}
    assert [preset.name for preset, _ in sweeps(1, dtype=dtype)] == [f"sweep_{sweep.name}" for sweep in SWEEPS]


def test_some_activations_are_beyond_what_squares_in_float16_hold() -> None:
    ((preset, _),) = sweeps(1, "sweep_below_256/*", "float32")
    table = preset.weights[EMBEDDINGS].astype(np.float64)
    assert np.abs(table * preset.config.embedding_multiplier_scale).max() > 2**8


def test_prompts_share_what_their_names_say() -> None:
    prompts = {name: case.calls[0].tokens[0] for name, case in requests_of("prefixes").items()}
    own = prompts["shared"]
    assert np.array_equal(prompts["shared_but_last"][:32], own[:32])
    assert prompts["shared_but_first"][0] != own[0] or np.array_equal(prompts["shared_but_first"][1:], own[1:])
    assert np.array_equal(prompts["beginning"], own[:17])
    assert np.array_equal(prompts["continued"][:33], own)
    inside = prompts["shared_in_block"]
    assert np.array_equal(inside[:13], own[:13])
    assert not np.array_equal(inside[13:16], own[13:16])
    assert prompts["special_ids"][:6].tolist() == [1, 1, 2, 2, 3, 3]
    assert len(set(requests_of("long")["alike"].calls[0].tokens[0].tolist())) == 1


def test_of_equal_rows_one_has_the_tokens_of_the_other_until_they_part() -> None:
    case = requests_of("long")["many_steps"]
    assert sum(call.kind == "decode" for call in case.calls) == 18
    alike = [np.array_equal(call.tokens[0], call.tokens[1]) for call in case.calls]
    assert all(alike[:10])
    assert not all(alike[10:])
    assert not np.array_equal(case.calls[0].tokens[1], case.calls[0].tokens[2])


def test_rows_are_empty_in_a_prompt_and_in_chunks() -> None:
    case = requests_of("long")["idle_rows"]
    assert [call.lengths.tolist() for call in case.calls if 0 in call.lengths] == [
        [5, 0, 7, 3], [0, 2, 3, 0], [2, 5, 0, 1]
    ]  # fmt: skip


def test_chunks_start_where_blocks_end() -> None:
    case = requests_of("long")["chunks_at_borders"]
    assert [int(steps_before(case, i)[0]) for i in range(1, len(case.calls))] == [16, 32, 64, 128, 256]


def test_small_models_have_widths_at_borders_of_which_the_seed_draws_one() -> None:
    widths = {preset.config.model.emb_size for seed in range(20) for preset, _ in sweeps(seed, "sweep_deep/*")}
    assert widths <= set(NARROW_BORDERS)
    assert len(widths) > 5


def test_between_them_sweeps_have_every_number_of_rows_up_to_nine_and_some_beyond() -> None:
    assert {len(call.tokens) for _, cases in sweeps(1) for case in cases for call in case.calls} == {
        *range(1, 10), 13, 16, 17, 33
    }  # fmt: skip


def test_steps_of_nine_rows_go_over_every_border_of_blocks_below_129() -> None:
    case = requests_of("long")["nine_rows"]
    steps = {int(step) for i in range(len(case.calls)) for step in steps_before(case, i)}
    assert {15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129} <= steps


def test_rejected_drafts_are_cut_back_row_by_row() -> None:
    case = requests_of("long")["drafts_taken_back"]
    assert case.optional
    assert [steps_before(case, i).tolist() for i in range(len(case.calls))] == [
        [0, 0], [17, 9], [19, 10], [20, 11], [16, 14], [19, 16], [0, 15], [4, 18]
    ]  # fmt: skip


def test_long_caches_are_stepped_over_where_integers_of_16_bits_end() -> None:
    ((preset, (case,)),) = sweeps(1, "sweep_far/*", "float32")
    steps = {int(step) for i in range(len(case.calls)) for step in steps_before(case, i)}
    assert {4095, 4096, 32767, 32768} <= steps
    assert case.optional  # whoever cannot preload is told so by a stored case
    assert all(2**16 <= call.tokens.min() <= call.tokens.max() < preset.config.vocab_size for call in case.calls)


def test_int8_values_reach_the_least_there_is() -> None:
    ((preset, _),) = sweeps(1, "sweep_at_256/*", "float32")
    assert min(int(x.min()) for name, x in preset.weights.items() if name.endswith(".weight")) == -128


@pytest.mark.parametrize("block", [24, 40, 48, 56, 60, 80, 88, 96, 112, 120, 176, 192, 224])
def test_a_prompt_is_one_token_more_than_blocks_that_are_no_power_of_two(block: int) -> None:
    lengths = {int(case.calls[0].lengths[0]) for case in requests_of("long").values()}
    assert any(length > block and length % block == 1 for length in lengths)


def test_a_chunk_follows_on_caches_that_were_filled_elsewhere() -> None:
    case = requests_of("long")["chunk_on_given_caches"]
    assert case.preload is not None
    assert [call.kind for call in case.calls] == ["extend", "decode"]


def test_the_same_token_is_decoded_again_and_again() -> None:
    case = requests_of("long")["alike"]
    assert [call.tokens.tolist() for call in case.calls[1:]] == [case.calls[0].tokens[:, :1].tolist()] * 3
