from __future__ import annotations

from dataclasses import replace

import numpy as np

from grok_conformance.harness.cases.case import Cache, Call, Case, holds_quirk, repeated, steps_before, tap_key

TOKENS = np.array([[5, 6, 7], [8, 0, 0]], np.int32)
CASE = Case(
    id="tiny/chunked/two_chunks",
    preset="tiny",
    fprop_dtype="float32",
    why="a test",
    origin="a test",
    calls=(Call("prefill", TOKENS, np.array([3, 1], np.int32)), Call("extend", TOKENS, np.array([2, 1], np.int32))),
)


def test_steps_grow_by_the_real_lengths_of_the_calls_before() -> None:
    assert [steps_before(CASE, call).tolist() for call in (0, 1, 2)] == [[0, 0], [3, 1], [5, 2]]


def test_steps_begin_where_a_preloaded_cache_ends() -> None:
    cache = Cache(np.zeros((1, 2, 9, 1, 2)), np.zeros((1, 2, 9, 1, 2)), np.array([4, 2], np.int32))
    preloaded = replace(CASE, preload=cache)
    assert [steps_before(preloaded, call).tolist() for call in (0, 1)] == [[4, 2], [7, 3]]
    assert cache.steps.tolist() == [4, 2]


def test_a_taps_key_names_its_call() -> None:
    assert tap_key(2, "layers.03.output") == "call2/layers.03.output"


def test_a_pad_inside_a_prompt_or_decoded_is_a_quirk_and_padding_behind_it_is_not() -> None:
    assert not holds_quirk(CASE, pad_token=0)
    longer = replace(CASE, calls=(Call("prefill", TOKENS, np.array([3, 2], np.int32)),))
    assert holds_quirk(longer, pad_token=0)
    decoded = Call("decode", np.array([[7], [0]], np.int32), np.array([1, 1], np.int32))
    assert holds_quirk(replace(CASE, calls=(*CASE.calls, decoded)), pad_token=0)


def test_a_repeated_case_asks_the_same_of_every_copy_of_its_batch() -> None:
    cache = Cache(np.arange(36.0).reshape(1, 2, 9, 1, 2), np.zeros((1, 2, 9, 1, 2)), np.array([4, 2], np.int32))
    thrice = repeated(replace(CASE, preload=cache), 3)
    assert thrice.calls[1].lengths.tolist() == [2, 1] * 3
    assert thrice.calls[0].tokens.tolist() == TOKENS.tolist() * 3
    assert [steps_before(thrice, call).tolist() for call in (0, 1)] == [[4, 2] * 3, [7, 3] * 3]
    assert thrice.preload is not None
    assert np.array_equal(thrice.preload.keys, np.concatenate([cache.keys] * 3, axis=1))


def test_a_repeated_case_cuts_every_copy_of_its_batch_back() -> None:
    cut = Call("truncate", np.array([[7], [9]], np.int32), np.array([1, 1], np.int32), np.array([2, 1], np.int32))
    twice = repeated(replace(CASE, calls=(*CASE.calls, cut)), 2)
    assert [steps_before(twice, call).tolist() for call in (2, 3)] == [[2, 1] * 2, [3, 2] * 2]
