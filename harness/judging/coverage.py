"""The certificate of a run: which sizes, borders and orders of calls it exercised, which not, and what hides there.

What never ran was never judged. A new trigger is a row of `TRIGGERS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.cases.case import Call, Case, steps_before
from grok_conformance.harness.cases.ladder import BATCHES, BORDERS
from grok_conformance.harness.cases.reruns import RERUNS
from grok_conformance.harness.contract import LanguageModelConfig, split_tap
from grok_conformance.harness.faults import ALL_FAULTS
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.running.answers import Answer


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What a run exercised of one trigger.

    `least` and `most` are the ends of the range, `met` the borders or orders in it that were exercised, `not_met` the
    others. Those `in_one` were met in one of the compute dtypes alone. `faults` are those of the catalogue that show
    only beyond what was exercised.
    """

    trigger: str
    least: int
    most: int
    met: tuple[str, ...]
    not_met: tuple[str, ...]
    in_one: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """One answered case, with the configuration of its model."""

    config: LanguageModelConfig
    case: Case
    answer: Answer


def tokens_of_calls(asked: Asked) -> Iterator[int]:
    """Yield the real tokens of every row in every call of several."""
    yield from (int(n) for call in asked.case.calls if call.tokens.shape[1] > 1 for n in call.lengths)


def cache_steps(asked: Asked) -> Iterator[int]:
    """Yield the steps in the cache before every later call, row by row."""
    for number, call in enumerate(asked.case.calls):
        if call.kind != "prefill":
            yield from (int(step) for step in steps_before(asked.case, number))


def chunks(asked: Asked) -> Iterator[int]:
    """Yield the number of chunks of several tokens."""
    yield sum(call.tokens.shape[1] > 1 for call in asked.case.calls)


def decoding_steps(asked: Asked) -> Iterator[int]:
    """Yield the number of decoding steps of a request."""
    yield sum(call.tokens.shape[1] == 1 for call in asked.case.calls)


def rows(asked: Asked) -> Iterator[int]:
    """Yield the rows of a batch."""
    yield len(asked.case.calls[0].tokens)


def tokens_of_experts(asked: Asked) -> Iterator[int]:
    """Yield how many real tokens each expert had in every call, as far as the candidate shows it."""
    for key, index in asked.answer.taps.items():
        call, _, tap = key.partition("/")
        if split_tap(tap)[1] == GROK_1.choice:
            asked_call = asked.case.calls[int(call.removeprefix("call"))]
            yield from counted(np.asarray(index), asked_call, asked.config.model.num_experts)


def counted(index: np.ndarray, call: Call, num_experts: int) -> Iterable[int]:
    """Return the real tokens of every expert, from the experts [b, t, c] of one call; nothing for another shape."""
    if index.shape[:2] != call.tokens.shape or not np.issubdtype(index.dtype, np.integer):
        return ()
    real = np.arange(index.shape[1]) < np.asarray(call.lengths)[:, None]
    chosen = np.clip(index[real].reshape(-1), 0, num_experts - 1)
    return [int(n) for n in np.bincount(chosen, minlength=num_experts)]


def sums(asked: Asked) -> Iterator[int]:
    """Yield how many terms the products with stored matrices sum: channels of the model, of an expert, of all heads."""
    sizes = asked.config.axis_sizes
    yield from (sizes["d"], sizes["f"], sizes["q"] * sizes["h"])


def layers(asked: Asked) -> Iterator[int]:
    """Yield the number of layers."""
    yield asked.config.model.num_layers


def experts(asked: Asked) -> Iterator[int]:
    """Yield the number of experts."""
    yield asked.config.model.num_experts


@dataclass(frozen=True)
class Trigger:
    """A size on which a fault may hang: what it counts, how it is read from an answered case, and its borders."""

    name: str
    read: Callable[[Asked], Iterator[int]]
    borders: tuple[int, ...]


TRIGGERS = (
    Trigger("rows of a batch", rows, (*BATCHES, 16, 17, 33)),
    Trigger("tokens of a row in a call", tokens_of_calls, BORDERS),
    Trigger("steps in the cache", cache_steps, (*BORDERS, 1025, 4095, 32767)),
    Trigger("chunks of a prompt", chunks, (1, 2, 3, 4, 5)),
    Trigger("decoding steps", decoding_steps, (1, 2, 4, 8)),
    Trigger("tokens of an expert", tokens_of_experts, (0, 1, *BORDERS)),
    Trigger("terms of a sum", sums, (*BORDERS, 320, 1025)),
    Trigger("layers", layers, (1, 2, 12)),
    Trigger("experts", experts, (1, 2, 8, 16)),
)
"""Every size that a certificate tells of."""

ORDERS = (
    "prefill then decode",
    "prefill then extend",
    "decode then decode",
    "decode then extend",
    "extend then decode",
    "extend then extend",
    "extend then truncate",
    "truncate then decode",
)
"""Pairs of calls, one after the other."""


def coverage(groups: Sequence[Group], answers: Sequence[Mapping[str, Answer]]) -> tuple[Coverage, ...]:
    """Return what the answered cases exercised, by trigger, and at last the orders of calls and the further runs."""
    asked = [
        Asked(group.preset.config, case, each[case.id])
        for group, each in zip(groups, answers, strict=True)
        for case in group.cases
        if case.id in each and each[case.id].status == "answered"
    ]
    pairs = {f"{a.kind} then {b.kind}" for one in asked for a, b in itertools.pairwise(one.case.calls)}
    runs = {name for one in asked for name in one.answer.reruns}
    return (
        *(of_sizes(trigger, by_dtype(trigger, asked)) for trigger in TRIGGERS),
        of_names("orders of calls", ORDERS, pairs),
        of_names("further runs", [rerun.name for rerun in RERUNS if rerun.name in runs or not rerun.by_server], runs),
    )


def by_dtype(trigger: Trigger, asked: Sequence[Asked]) -> dict[str, set[int]]:
    """Return the sizes that were met in each compute dtype."""
    found: dict[str, set[int]] = {one.case.fprop_dtype: set() for one in asked}
    for one in asked:
        found[one.case.fprop_dtype].update(trigger.read(one))
    return found


def of_sizes(trigger: Trigger, sizes: Mapping[str, set[int]]) -> Coverage:
    """Return what was exercised of one size, by the compute dtypes in which it was."""
    seen = set[int]().union(*sizes.values())
    common = seen.intersection(*sizes.values())
    most = max(seen, default=0)
    return Coverage(
        trigger=trigger.name,
        least=min(seen, default=0),
        most=most,
        met=tuple(str(border) for border in trigger.borders if border in seen),
        not_met=tuple(str(border) for border in trigger.borders if border not in seen),
        in_one=tuple(str(border) for border in trigger.borders if border in seen - common),
        faults=tuple(
            fault.id
            for fault in ALL_FAULTS.values()
            if fault.trigger and fault.trigger[0] == trigger.name and fault.trigger[1] > most
        ),
    )


def of_names(trigger: str, names: Sequence[str], found: set[str]) -> Coverage:
    """Return which of some names were exercised."""
    met = tuple(name for name in names if name in found)
    return Coverage(
        trigger=trigger, least=0, most=len(met), met=met, not_met=tuple(name for name in names if name not in found)
    )


MOST_TOLD = 3
"""Faults that a row of the certificate names in words; the JSON has all of them."""


def describe(found: Coverage) -> str:
    """Return a row of the certificate in a few words."""
    names = bool(found.met or found.not_met) and not (found.met + found.not_met)[0].isdigit()
    told = ", ".join(found.met) if names else f"{found.least} to {found.most}" if found.met or found.most else ""
    left = f", not {', '.join(found.not_met)}" if found.not_met else ""
    once = f" ({', '.join(found.in_one)} in one compute dtype)" if found.in_one else ""
    more = f" and {len(found.faults) - MOST_TOLD} more" if len(found.faults) > MOST_TOLD else ""
    hidden = f"; unseen {', '.join(found.faults[:MOST_TOLD])}{more}" if found.faults else ""
    return f"{found.trigger} {told or 'none'}{left}{once}{hidden}"


def in_short(found: Sequence[Coverage]) -> str:
    """Return how many borders and orders a certificate has met, and the first that it has not, in a few words."""
    met, left = sum(len(each.met) for each in found), [each for each in found if each.not_met]
    num_left = sum(len(each.not_met) for each in left)
    told = f"{met} of {met + num_left} sizes and orders of calls"
    if not left:
        return told
    first = ", ".join(f"{each.trigger} {each.not_met[0]}" for each in left[:MOST_TOLD])
    rest = f" and {num_left - len(left[:MOST_TOLD])} more" if num_left > len(left[:MOST_TOLD]) else ""
    return f"{told}; not {first}{rest} (--verbose, --json and --html tell all)"
