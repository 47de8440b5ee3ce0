"""A case: a preset and the calls made to it. Plain data between the store, the runner and the checks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from grok_conformance.harness.contract import ALL_LOGITS, Array, LanguageModelConfig, LogitForm, Weights

CallKind = Literal["prefill", "extend", "decode", "truncate"]


@dataclass(frozen=True)
class Preset:
    """A configuration and its stored weights."""

    name: str
    config: LanguageModelConfig
    weights: Weights


@dataclass(frozen=True)
class Call:
    """One call to a model: tokens int32 [b, t], of which the first lengths int32 [b] of each row are real.

    A call of the kind `truncate` first cuts each row's cache back to `steps` int32 [b]; others have none.
    """

    kind: CallKind
    tokens: Array
    lengths: Array
    steps: Array | None = None


@dataclass(frozen=True)
class Cache:
    """The caches of all layers: keys (after RoPE) and values [layer, b, s, g, h], steps int32 [b] (SPEC §5)."""

    keys: Array
    values: Array
    steps: Array


@dataclass(frozen=True, kw_only=True)
class Case:
    """A preset and the calls made to it, with the reason why the case exists.

    `id` is PRESET/AREA/WHAT. `preload` is the cache from which the first call starts, None for an empty one.
    `detects` names the faults that must fail the case. In a `published_degenerate` case queries that see no key, and
    decoding of the pad token, are compared too (SPEC §4.4); elsewhere they are not. `tie_rule` makes the order of equal
    scores, lowest index first, binding (SPEC §4.6); elsewhere it is a note. `form` is how the candidate at hand shows
    its logits; it is no part of the stored case. An `optional` case may be declined: it needs a call that the contract
    leaves open.
    """

    id: str
    preset: str
    fprop_dtype: str
    why: str
    origin: str
    calls: tuple[Call, ...]
    preload: Cache | None = None
    detects: tuple[str, ...] = ()
    published_degenerate: bool = False
    tie_rule: bool = False
    form: LogitForm = ALL_LOGITS
    optional: bool = False


def holds_quirk(case: Case, pad_token: int) -> bool:
    """Return whether a case asks for what the published model does with pads inside a prompt, or decoded.

    No serving engine does so, and none is used so: masks know lengths, not ids.
    """
    return bool(rows_with_quirk(case, pad_token).any())


def rows_with_quirk(case: Case, pad_token: int) -> Array:
    """Return which rows of a case have a pad inside a prompt or decode one, bool [b]."""
    found = np.zeros(len(case.calls[0].tokens), bool)
    for call in case.calls:
        real = np.arange(call.tokens.shape[1]) < call.lengths[:, None]
        found |= (real & (call.tokens == pad_token)).any(-1)
    return found


def steps_before(case: Case, call: int) -> Array:
    """Return the cache step of every row before a call, int32 [b], which one that truncates has cut back."""
    steps = np.zeros(len(case.calls[0].tokens), np.int32) if case.preload is None else case.preload.steps
    for earlier in case.calls[:call]:
        steps = (steps if earlier.steps is None else earlier.steps) + earlier.lengths
    cut = case.calls[call].steps if call < len(case.calls) else None
    return np.asarray(steps if cut is None else cut, np.int32)


def repeated(case: Case, times: int) -> Case:
    """Return a case that asks the same of so many copies of its batch, one behind the other."""
    calls = tuple(
        Call(
            call.kind,
            copies(call.tokens, times),
            copies(call.lengths, times),
            None if call.steps is None else copies(call.steps, times),
        )
        for call in case.calls
    )
    preload = case.preload
    if preload is not None:
        keys, values = (np.concatenate([x] * times, axis=1) for x in (preload.keys, preload.values))
        preload = Cache(keys, values, copies(preload.steps, times))
    return replace(case, calls=calls, preload=preload)


def copies(x: Array, times: int) -> Array:
    """Return so many copies of what belongs to a batch, one behind the other along its first axis."""
    return np.concatenate([x] * times)


def tap_key(call: int, tap: str) -> str:
    """Return the name under which a call's tap is stored in taps.safetensors: `call0/layers.03.router.logits`."""
    return f"call{call}/{tap}"


def input_tensors(case: Case) -> dict[str, Array]:
    """Return the tensors of a case's inputs by the names that they have in a file."""
    tensors = {
        tap_key(index, name): getattr(call, name)
        for index, call in enumerate(case.calls)
        for name in ("tokens", "lengths", *["steps"] * (call.steps is not None))
    }
    if case.preload is not None:
        tensors |= {f"preload/{name}": getattr(case.preload, name) for name in ("keys", "values", "steps")}
    return tensors
