"""By what the failing values of an operation may stand out: the call, the place along every axis, the chosen expert."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.cases.case import CallKind, steps_before
from grok_conformance.harness.contract import Array, tap_name
from grok_conformance.harness.diagnosis.shown_tap import ShownTap

KINDS: dict[CallKind, str] = {
    "prefill": "prefills",
    "extend": "further chunks",
    "decode": "decode steps",
    "truncate": "calls that cut the cache back",
}
"""What calls of each kind are called."""


@dataclass(frozen=True)
class Feature:
    """One property of every element of a tap: integers that broadcast to its shape.

    Of a countable one `noun` is what is counted, with its plural, and places may be ranges; of another `words` tell
    what each value means. `tokenwise` ones do not depend on the features of a token.
    """

    name: str
    values: Array
    noun: str = ""
    words: tuple[str, ...] = ()
    tokenwise: bool = True


def features_of(shown: ShownTap) -> Iterator[Feature]:
    """Yield the features of a tap, those first by which a reader would rather be told where something is wrong."""
    yield from _of_the_call(shown)
    yield from _of_tokens(shown)
    yield from _of_experts(shown)
    yield from _of_axes(shown)


def _of_the_call(shown: ShownTap) -> Iterator[Feature]:
    call = shown.exhibit.case.calls[shown.call]
    one: Array = np.ones((1,) * shown.observed.ndim, np.int64)
    yield Feature("kind", one * list(KINDS).index(call.kind), words=tuple(KINDS.values()))
    later = ("the first call", "calls after the first")
    yield Feature("later", one * (shown.call > 0), words=later)
    if shown.layer is not None:
        yield Feature("layer", one * shown.layer, noun="layer")
    yield Feature("call", one * shown.call, noun="call")
    if call.tokens.shape[1] > 1:
        before = sum(each.tokens.shape[1] > 1 for each in shown.exhibit.case.calls[: shown.call])
        yield Feature("chunk", one * before, noun="chunk")
    yield Feature("num_tokens", one * call.tokens.shape[1], noun="calls of tokens")
    yield Feature("batch", one * len(call.tokens), noun="batches of rows")


def along(shown: ShownTap, letters: str, x: Array) -> Array:
    """Return an array over some axes of a tap, given in the tap's order, with the other axes added."""
    shape = [x.shape[letters.index(axis)] if axis in letters else 1 for axis in shown.axes]
    return np.reshape(x, shape)


def _of_tokens(shown: ShownTap) -> Iterator[Feature]:
    case, axes = shown.exhibit.case, shown.axes
    call, steps = case.calls[shown.call], steps_before(case, shown.call)
    b, t = call.tokens.shape
    if "b" in axes:
        last = along(shown, "b", (np.arange(b) == b - 1).astype(np.int64))
        yield Feature("last row", last, words=("rows before the last", "the last row"))
        yield Feature("row", along(shown, "b", np.arange(b)), noun="row")
    if "b" in axes and "t" in axes:
        places = np.arange(t)[None] + np.zeros((b, 1), np.int64)
        ends = along(shown, "bt", (places == call.lengths[:, None] - 1).astype(np.int64))
        begins = along(shown, "bt", (places == 0).astype(np.int64))
        yield Feature("first token", begins, words=("tokens after the first of a call", "the first token of a call"))
        yield Feature("last token", ends, words=("tokens before the last of a row", "the last token of each row"))
        yield Feature("position", along(shown, "bt", steps[:, None] + places), noun="position")
        yield Feature("token", along(shown, "bt", places), noun="token")
    if "b" in axes and "s" in axes:
        size = shown.observed.shape[axes.index("s")]
        old = (np.arange(size)[None] < steps[:, None]).astype(np.int64)
        yield Feature("old slots", along(shown, "bs", old),
                      words=("slots that this call fills", "slots filled by earlier calls"))  # fmt: skip


def _of_experts(shown: ShownTap) -> Iterator[Feature]:
    graph, values = shown.graph, shown.values
    choice = tap_name(shown.layer, graph.choice)
    names = graph.tap_names(shown.scope.config)
    if shown.layer is None or choice not in values or names.index(shown.tap) <= names.index(choice):
        return
    letters, chosen = graph.specs[graph.choice].axes, values[choice].astype(np.int64)
    if not set(letters[:-1]) <= set(shown.axes):
        return
    call = shown.exhibit.case.calls[shown.call]
    real = np.arange(chosen.shape[1]) < call.lengths[:, None]
    num_experts = shown.scope.config.model.num_experts
    if letters[-1] in shown.axes:
        counts = np.bincount(chosen[real].ravel(), minlength=num_experts)
        yield Feature("expert", along(shown, "".join(letters), chosen), noun="expert")
        yield Feature("load", along(shown, "".join(letters), counts[chosen]), noun="experts with tokens")
        for noun, counted in (("expert slot", real), ("padded expert slot", np.ones_like(real))):
            yield Feature(noun, along(shown, "".join(letters), slots_of(chosen, counted)), noun=noun)
        return
    for expert in range(num_experts):
        sent = (chosen == expert).any(-1).astype(np.int64)
        words = (f"tokens not sent to expert {expert}", f"tokens sent to expert {expert}")
        yield Feature(f"sent to {expert}", along(shown, "".join(letters[:-1]), sent), words=words)


def slots_of(chosen: Array, real: Array) -> Array:
    """Return at which place of its expert's tokens each chosen expert [b, t, c] has a token, 0 for what is not counted.

    Kernels run over the tokens of an expert in tiles, with the pads of a batch among them or without.
    """
    slots = np.zeros(chosen.shape, np.int64)
    for expert in np.unique(chosen[real]):
        own = (chosen == expert) & real[..., None]
        slots[own] = np.arange(np.count_nonzero(own))
    return slots


def _of_axes(shown: ShownTap) -> Iterator[Feature]:
    for axis, size in zip(shown.axes, shown.observed.shape, strict=True):
        if axis in "bt" or size == 1:
            continue
        noun, at = shown.graph.noun(axis), np.arange(size)
        yield Feature(axis, along(shown, axis, at), noun=noun, tokenwise=False)
        halves = (f"the first half of the {noun}s", f"the second half of the {noun}s")
        yield Feature(f"half of {axis}", along(shown, axis, at * 2 // size), words=halves, tokenwise=False)
        even = (f"even {noun}s", f"odd {noun}s")
        yield Feature(f"parity of {axis}", along(shown, axis, at % 2), words=even, tokenwise=False)
        last = (f"{noun}s before the last", f"the last {noun}")
        yield Feature(f"last of {axis}", along(shown, axis, (at == size - 1) * 1), words=last, tokenwise=False)
