"""Where a hidden choice of experts may honestly go either way, and which tokens and cache slots hang on it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from grok_conformance.harness.cases.case import steps_before
from grok_conformance.harness.checks.evidence import Key
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.contract import Array, LanguageModelConfig, split_tap, tap_name
from grok_conformance.harness.measure.noise import closed_by

TIED = 1e-12
"""Exact scores closer than this are one score: which comes first is the port's to choose unless the tie rule binds."""

Open = Mapping[Key, Array]
"""What hangs on an undecided choice, by (call, tap): tokens bool [b, t], of a cache slots bool [b, s]; the rest has no
entry."""


def open_to_choice(exhibit: Exhibit, undecided: Open, known: Collection[Key]) -> Open:
    """Return what of every tap hangs on a hidden choice that honest noise leaves undecided.

    `undecided` are the tokens bool [b, t] of such choices, by (call, tap). A choice reaches the taps that are computed
    from it, and through the caches tokens behind its own, in this call and in later ones; what is `known` passes
    nothing on, since a check goes on from there.
    """
    case, evidence, graph = exhibit.case, exhibit.evidence, exhibit.evidence.graph
    found: dict[Key, Array] = {}
    for call, asked in enumerate(case.calls):
        b, t = asked.tokens.shape
        steps = steps_before(case, call)
        for tap in graph.tap_names(evidence.config):
            operation = split_tap(tap)[1]
            reached = np.zeros((b, evidence.config.sequence_len if operation in graph.copies else t), bool)
            for source in graph.input_taps(tap, evidence.config):
                earlier = source.startswith("previous:")
                key = (call - earlier, source.removeprefix("previous:"))
                if key in known or key not in found:
                    continue
                if earlier:
                    reached |= found[key] & (np.arange(reached.shape[1]) < steps[:, None])
                elif operation in graph.copies:
                    reached |= in_slots(found[key], steps, asked.lengths, reached.shape[1])
                elif split_tap(source)[1] in graph.copies:
                    reached |= seen_by(found[key], steps, t)
                else:
                    reached |= found[key]
            reached |= undecided.get((call, tap), False)
            if reached.any():
                found[call, tap] = reached
    return found


def undecided_choices(exhibit: Exhibit, values: Mapping[Key, Array], deviation: Mapping[Key, Array]) -> Open:
    """Return for which tokens bool [b, t] a choice that is not shown may go either way, those of the tie rule apart.

    `values` are the exact ones by (call, tap), scores of experts [b, t, e] among them; `deviation` is their noise, of
    scores [b, t] or for every expert.
    """
    evidence, found = exhibit.evidence, dict[Key, Array]()
    for (call, tap), exact in values.items():
        layer, operation = split_tap(tap)
        chosen = (call, tap_name(layer, evidence.graph.choice))
        if operation != evidence.graph.scores or chosen in evidence.observed or (call, tap) not in deviation:
            continue
        noise = deviation[call, tap]
        gap = boundary_gap(exact, evidence.config)
        closed = closed_by(noise.max(-1) if noise.ndim == exact.ndim else noise)
        found[chosen] = (gap <= closed) & ~(exhibit.case.tie_rule & (gap <= TIED))
    return found


def boundary_gap(probabilities: Array, config: LanguageModelConfig) -> Array:
    """Return how far the last chosen expert is ahead of the first one left out, [b, t] from probabilities [b, t, e]."""
    ordered: Array = -np.sort(-probabilities, axis=-1)
    k = config.model.num_selected_experts
    if k == ordered.shape[-1]:
        return np.full(ordered.shape[:-1], math.inf)
    gap: Array = ordered[..., k - 1] - ordered[..., k]
    return gap


def in_slots(tokens: Array, steps: Array, lengths: Array, num_slots: int) -> Array:
    """Return the slots bool [b, s] in which tokens bool [b, t] are stored that begin at some steps int32 [b]."""
    place = np.arange(num_slots) - steps[:, None]
    stored = (place >= 0) & (place < lengths[:, None])
    slots: Array = stored & np.take_along_axis(tokens, np.clip(place, 0, tokens.shape[1] - 1), 1)
    return slots


def seen_by(slots: Array, steps: Array, num_tokens: int) -> Array:
    """Return which queries bool [b, t] see one of some slots bool [b, s]: any up to their own."""
    first = np.where(slots.any(-1), slots.argmax(-1), slots.shape[1])
    sees: Array = steps[:, None] + np.arange(num_tokens) >= first[:, None]
    return sees


def decided(hanging: Array | None, x: Array, axes: tuple[str, ...]) -> Array:
    """Return the mask of a tap x, by its axes, that leaves out tokens or slots which hang on an undecided choice."""
    if hanging is None:
        return np.ones((1,) * x.ndim, bool)
    letter = "t" if "t" in axes else "s"
    sizes = [hanging.shape[("b", letter).index(a)] if a in ("b", letter) else 1 for a in axes]
    return np.asarray(~hanging.reshape(sizes))
