from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from grok_conformance.reference import apply, steps
from grok_conformance.reference.runner import (
    InferenceRunner,
    ModelRunner,
    Request,
    SampledToken,
    pad_to_size,
)
from grok_conformance.reference.sampling import EXCLUDED, SampleSettings
from tests.reference.slot_models import CONFIG, random_params

PARAMS = random_params(CONFIG)
PROGRAMS = ("empty_slots", "prefill", "decode", "release")
PAD_SIZES = (4, 8)
PROMPTS = ([7, 31, 12], [5, 9, 40, 3, 17, 22], [44, 6, 30, 11, 2, 38, 25, 19])
MAX_LENS = (5, 11, 100)

ON_A_MESH = """
import dataclasses, json, sys
from grok_conformance.reference import make_mesh
from grok_conformance.reference.runner import InferenceRunner, ModelRunner, Request
from grok_conformance.reference.steps import decode, prefill
from tests.reference.slot_models import CONFIG, random_params

eos_token, prompts = json.load(sys.stdin)
model = ModelRunner(dataclasses.replace(CONFIG, eos_token=eos_token), random_params(CONFIG), make_mesh((2, 4)))
query = model.params["transformer/decoder_layer_0/multi_head_attention/query"]["w"].weight
assert query.addressable_shards[0].data.shape == (16, 8), "not placed by the partition rules"
requests = [Request(prompt=prompt, max_len=6, temperature=len(prompt) - 1.0) for prompt in prompts]
print(json.dumps([token[:2] for token in InferenceRunner(model, num_slots=2, pad_sizes=(4, 8)).run(requests)]))
assert (prefill._cache_size(), decode._cache_size()) == (1, 1), "recompiled: the slots do not stay where they are"
"""


def uncached_logits(tokens: Sequence[int]) -> np.ndarray:
    """The logits after the tokens, from one pass without a cache; pads behind them are not seen."""
    padded = np.array([[*tokens, *[0] * (CONFIG.sequence_len - len(tokens))]])
    output: Any = apply(CONFIG, PARAMS, padded, length=len(tokens))
    logits: np.ndarray = np.asarray(output.logits)[0, 0]
    return logits


def uncached_answer(prompt: Sequence[int], max_len: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_len and len(tokens) <= CONFIG.sequence_len:
        tokens.append(int(np.argmax(uncached_logits(tokens))))
    return tokens[len(prompt) :]


def greedy(prompt: Sequence[int], max_len: int) -> Request:
    return Request(prompt=prompt, max_len=max_len, temperature=0)


def answers(tokens: Iterable[SampledToken]) -> list[list[int]]:
    collected = defaultdict(list)
    for token in tokens:
        collected[token.request].append(token.token_id)
    return [collected[number] for number in sorted(collected)]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return [uncached_answer(*request) for request in zip(PROMPTS, MAX_LENS, strict=True)]


@pytest.fixture(scope="module")
def inference(expected: list[list[int]]) -> InferenceRunner:
    """Two slots; the end-of-sequence token is one that the second answer draws half way."""
    config = replace(CONFIG, eos_token=expected[1][6])
    return InferenceRunner(ModelRunner(config, PARAMS), num_slots=2, pad_sizes=PAD_SIZES)


def until_eos(answer: list[int], eos_token: int) -> list[int]:
    return answer[: answer.index(eos_token) + 1] if eos_token in answer else answer


def test_requests_that_share_the_slots_answer_as_they_do_alone_and_without_a_cache(
    inference: InferenceRunner, expected: list[list[int]]
) -> None:
    requests = [greedy(*request) for request in zip(PROMPTS, MAX_LENS, strict=True)]
    together = answers(inference.run(requests))
    assert together == [answers(inference.run([request]))[0] for request in requests]
    assert together == [until_eos(answer, inference.runner.config.eos_token) for answer in expected]
    assert all(len(set(answer)) > 2 for answer in together)  # no model that repeats itself whatever the cache holds


def test_an_answer_ends_after_max_len_after_eos_or_when_the_cache_is_full(
    inference: InferenceRunner, expected: list[list[int]]
) -> None:
    eos_token = inference.runner.config.eos_token
    assert len(expected[2]) == CONFIG.sequence_len - len(PROMPTS[2]) + 1
    for prompt, max_len, answer in zip(PROMPTS, MAX_LENS, expected, strict=True):
        tokens = list(inference.run([greedy(prompt, max_len)]))
        assert [token.last for token in tokens] == [False] * (len(tokens) - 1) + [True]
        assert len(tokens) == len(until_eos(answer, eos_token))
    assert until_eos(expected[1], eos_token) != expected[1]


def test_a_prompt_longer_than_the_largest_bucket_keeps_its_last_tokens(inference: InferenceRunner) -> None:
    long = [9, 9, 9, *PROMPTS[2]]
    assert answers(inference.run([greedy(long, 5)])) == answers(inference.run([greedy(PROMPTS[2], 5)]))
    assert answers(inference.run([greedy(long, 5)])) != answers(inference.run([greedy(long[:8], 5)]))


def expected_draws(request: Request) -> list[int]:
    """SPEC §6 on the logits of passes without a cache."""
    rng, tokens = jax.random.PRNGKey(request.rng_seed), list(request.prompt)
    for _ in range(request.max_len):
        rng, sub = jax.random.split(rng)
        logits = uncached_logits(tokens) / request.temperature
        order = np.argsort(logits)
        probs = np.exp(logits[order]) / np.exp(logits).sum()
        threshold = logits[order][np.argmax(np.cumsum(probs) >= 1 - request.nucleus_p)]
        noise = jax.random.gumbel(sub, (1, CONFIG.vocab_size))[0]
        tokens.append(int(np.argmax(np.where(logits >= threshold, logits, EXCLUDED) + noise)))
    return tokens[len(request.prompt) :]


def test_each_step_splits_the_key_of_the_request_and_draws_with_the_second_half(inference: InferenceRunner) -> None:
    requests = [
        Request(prompt=PROMPTS[0], max_len=5, temperature=2.0, nucleus_p=0.8, rng_seed=seed)
        for seed in (3, 4, 2**32 - 1)
    ]
    drawn = [until_eos(expected_draws(request), inference.runner.config.eos_token) for request in requests]
    assert answers(inference.run([greedy(PROMPTS[1], 2), *requests]))[1:] == drawn
    assert len({answer[0] for answer in drawn}) == len({tuple(answer) for answer in drawn}) == len(requests)


def test_slots_are_handed_out_from_the_last_one_and_requests_taken_as_they_become_free(
    inference: InferenceRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    prefill, release = ModelRunner.prefill, ModelRunner.release

    def recorded_prefill(self: ModelRunner, *arguments: Any) -> Any:
        events.append(f"fill {arguments[-1]}")
        return prefill(self, *arguments)

    def recorded_release(self: ModelRunner, slots: Any, i: int) -> Any:
        events.append(f"free {i}")
        return release(self, slots, i)

    def requests() -> Iterator[Request]:
        for number, max_len in enumerate((2, 1, 3)):
            events.append(f"take {number}")
            yield greedy(PROMPTS[0], max_len)

    monkeypatch.setattr(ModelRunner, "prefill", recorded_prefill)
    monkeypatch.setattr(ModelRunner, "release", recorded_release)
    for token in inference.run(requests()):
        events.append(f"draw {token.request}")  # noqa: PERF401 - the run appends events in between
    assert " ".join(events) == (
        "take 0 fill 1 take 1 fill 0 draw 0 free 0 draw 1 take 2 fill 0 draw 2 free 1 draw 0 draw 2 free 0 draw 2"
    )


def test_compile_runs_every_program_that_a_run_needs_and_no_run_compiles_another(
    inference: InferenceRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [greedy(*request) for request in zip(PROMPTS, MAX_LENS, strict=True)]
    programs: dict[str, Any] = {name: getattr(steps, name) for name in PROGRAMS}
    called: list[str] = []

    def recorded(name: str) -> Any:
        def run(*arguments: Any, **sizes: Any) -> Any:
            called.append(f"{name} of {len(arguments[2])}" if name == "prefill" else name)
            return programs[name](*arguments, **sizes)

        return run

    for name in PROGRAMS:
        monkeypatch.setattr(steps, name, recorded(name))
    inference.compile(requests)
    assert sorted(called) == ["decode", "empty_slots", "prefill of 4", "prefill of 8", "release"]
    num_compiled = [program._cache_size() for program in programs.values()]
    answers(inference.run([*requests, *requests]))
    assert set(called) == set(called[:5])
    assert [program._cache_size() for program in programs.values()] == num_compiled


def test_mesh_2_4_draws_the_tokens_that_one_device_draws(inference: InferenceRunner) -> None:
    prompts = [PROMPTS[0][:1], PROMPTS[0][:2], PROMPTS[0]]
    requests = [Request(prompt=prompt, max_len=6, temperature=len(prompt) - 1.0) for prompt in prompts]
    expected = [list(token[:2]) for token in inference.run(requests)]
    assert len({token_id for _, token_id in expected}) > 4
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    child = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-W", "error", "-c", ON_A_MESH],
        cwd=Path(__file__).parents[2],
        env=environment,
        input=json.dumps([inference.runner.config.eos_token, prompts]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == expected


def prefilled(model: ModelRunner) -> Any:
    settings = SampleSettings(
        temperature=np.ones(1, np.float32),
        nucleus_p=np.ones(1, np.float32),
        mask=np.ones((1, CONFIG.vocab_size), bool),
        active=np.ones(1, bool),
    )
    prompt = pad_to_size(np.array(PROMPTS[0], np.int32), 4)
    return model.prefill(model.empty_slots(2), prompt, 3, jax.random.PRNGKey(5), settings, 1)


def test_prefill_fills_its_slot_only_with_pads_up_to_the_bucket_and_the_true_length_as_step(
    inference: InferenceRunner,
) -> None:
    slots = prefilled(inference.runner)
    for layer in slots.memory.layers:
        np.testing.assert_array_equal(layer.step, [0, 3])
        for cache in (layer.k, layer.v):
            filled = np.any(cache, axis=(2, 3))  # [b, s]
            np.testing.assert_array_equal(filled, [[False] * 20, [True] * 4 + [False] * 16])
    np.testing.assert_array_equal(slots.settings.active, [False, True])
    np.testing.assert_array_equal(slots.rngs, [[0, 0], jax.random.split(jax.random.PRNGKey(5))[0]])


def test_inactive_slots_run_at_position_0_and_end_with_step_1(inference: InferenceRunner) -> None:
    model = inference.runner
    slots = model.decode(model.decode(prefilled(model)))
    np.testing.assert_array_equal(slots.memory.layers[0].step, [1, 5])
    slots = model.decode(model.release(slots, 1))
    for layer in slots.memory.layers:
        np.testing.assert_array_equal(layer.step, [1, 1])
        np.testing.assert_array_equal(np.any(layer.arrays()[0][0], axis=(1, 2)), [True] + [False] * 19)


@pytest.mark.parametrize(
    ("size", "padded"), [(5, [4, 5, 6, 0, 0]), (3, [4, 5, 6]), (2, [5, 6])], ids=["shorter", "equal", "longer"]
)
def test_pad_to_size_pads_on_the_right_or_keeps_the_last(size: int, padded: list[int]) -> None:
    np.testing.assert_array_equal(pad_to_size(np.array([4, 5, 6]), size), padded)


@pytest.mark.parametrize(("length", "size"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, 8)])
def test_a_prompt_goes_to_the_next_bucket_or_the_largest(inference: InferenceRunner, length: int, size: int) -> None:
    assert inference.bucket(length) == size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "the prompt is empty: give at least one token"),
        ({"max_len": 0}, "max_len 0: ask for at least one token"),
        ({"temperature": -1.0}, r"temperature -1.0: give 0 \(greedy\)"),
        ({"temperature": float("nan")}, "temperature nan: "),
        ({"temperature": 1e-7}, "temperature 1e-07: "),
        ({"nucleus_p": 1.1}, "nucleus_p 1.1: give a probability from 0 to 1"),
        ({"nucleus_p": float("nan")}, "nucleus_p nan: "),
        ({"rng_seed": -1}, "rng_seed -1: give an integer from 0 to 4294967295"),
    ],
)
def test_a_request_that_cannot_be_sampled_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Request(**{"prompt": [1], "max_len": 1, **change})


@pytest.mark.parametrize("pad_sizes", [(), (0, 4), (8, 4), (4, 4), (4, 21)])
def test_pad_sizes_that_do_not_ascend_within_the_cache_are_refused(
    inference: InferenceRunner, pad_sizes: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"must ascend and lie in 1\.\.sequence_len 20"):
        replace(inference, pad_sizes=pad_sizes)


def test_no_slots_are_refused(inference: InferenceRunner) -> None:
    with pytest.raises(ValueError, match=r"^0 slots serve no request"):
        replace(inference, num_slots=0)


def test_a_token_outside_the_vocabulary_is_refused_by_name(inference: InferenceRunner) -> None:
    with pytest.raises(ValueError, match=r"^token id 48 at row 0, position 1 is outside the vocabulary"):
        next(inference.run([greedy([1, 48], 1)]))
