"""Fresh weights, prompts and answers of honest ports, of every preset, compute dtype and seed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.cases.case import Call, Case, Preset, tap_key
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import Array, LanguageModelConfig
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.running.answers import Answer
from tests.fault_detection.honest_variants import VARIANTS, Variant
from tests.small_configurations import dense, small

NUM_CASES = 3
"""Cases of every preset and dtype in one suite, which is judged as a whole."""

CONFIG = small(sequence_len=8, fprop_dtype="bfloat16", key_size=4, num_q_heads=12)
DENSE = dense(CONFIG)


@dataclass(frozen=True)
class PresetRow:
    """A configuration and the statistics of its weights; `compiled` engines, slow with every new shape, run few."""

    statistics: Statistics
    config: LanguageModelConfig = CONFIG
    compiled: bool = True


PRESETS: Mapping[str, PresetRow] = {
    "usual": PresetRow(Statistics(seed=0, num_groups=4)),
    "near_ties": PresetRow(Statistics(seed=1, num_groups=4, router_deviation=0.055)),
    "stress": PresetRow(Statistics(seed=2, num_groups=4, query_gain=25, activation_gain=3, router_deviation=8)),
    "float32_scales": PresetRow(Statistics(seed=3, num_groups=2, scales_dtype="float32"), compiled=False),
    "float_weights": PresetRow(Statistics(seed=4, scales_dtype=None), compiled=False),
    "dense": PresetRow(Statistics(seed=5, num_groups=4), DENSE, compiled=False),
}


def honest_case(preset: str, config: LanguageModelConfig, dtype: str, seed: int, index: int) -> Case:
    """Draw a padded prefill of two rows and one decoded token each; every third case has a pad inside a prompt."""
    random = np.random.default_rng([seed, index, len(preset)])
    tokens = random.integers(1, config.vocab_size, (2, 5), dtype=np.int32)
    tokens[1, 3:] = config.pad_token
    if index % 3 == 1:
        tokens[0, 2] = config.pad_token
    decoded = random.integers(1, config.vocab_size, (2, 1), dtype=np.int32)
    calls = (
        Call("prefill", tokens, np.array([5, 3], np.int32)),
        Call("decode", decoded, np.ones(2, np.int32)),
    )
    return Case(
        id=f"{preset}/honest/{seed}_{index}.{dtype}",
        preset=preset,
        fprop_dtype=dtype,
        why="honest",
        origin="tests.fault_detection",
        calls=calls,
    )


@functools.cache
def honest_group(preset: str, dtype: str, seed: int, num_cases: int) -> Group:
    """Draw the weights and the cases of one preset, dtype and seed."""
    row = PRESETS[preset]
    drawn = Preset(
        preset, row.config, synthesize(row.config, replace(row.statistics, seed=seed * 100 + row.statistics.seed))
    )
    cases = tuple(honest_case(preset, row.config, dtype, seed, index) for index in range(num_cases))
    return Group(drawn, dtype, cases, lambda case_id: golden_taps(preset, dtype, seed, num_cases)[case_id])


@functools.cache
def golden_taps(preset: str, dtype: str, seed: int, num_cases: int) -> Mapping[str, Mapping[str, Array]]:
    """Return what the first variant shows, in place of a golden set."""
    group = honest_group(preset, dtype, seed, num_cases)
    return {case_id: answer.taps for case_id, answer in answers_of(next(iter(VARIANTS.values())), group).items()}


def answers_of(variant: Variant, group: Group) -> dict[str, Answer]:
    """Run a variant over the cases of a group, in this process."""
    model = variant.load(replace(group.preset.config, fprop_dtype=group.fprop_dtype), group.preset.weights)
    answers = {}
    for case in group.cases:
        taps: dict[str, Array] = {}
        for i, call in enumerate(case.calls):
            tokens, lengths = call.tokens.copy(), call.lengths.copy()
            made = model.prefill(tokens, lengths, ("*",)) if call.kind == "prefill" else model.decode(tokens, ("*",))
            taps |= {tap_key(i, tap): value for tap, value in made.items()}
        answers[case.id] = Answer(status="answered", info=variant.info, taps=taps)
    return answers
