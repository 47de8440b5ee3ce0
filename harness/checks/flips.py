"""Whether a port's other choices of experts are as many as honest rounding explains (ARCHITECTURE: flip).

Each flip alone is excused by its margin (`end_to_end.flips`). Here all of them are: honest error makes every token flip
with a chance that its margins give, and the number of flips is a sum of such events (a Poisson-binomial variable).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.checks.end_to_end import Honest
from grok_conformance.harness.checks.evidence import Evidence
from grok_conformance.harness.checks.undecided import TIED
from grok_conformance.harness.contract import Array, LanguageModelConfig, split_tap, tap_name
from grok_conformance.harness.measure.noise import FLIP_ALARM_RATE, MODEL_FACTOR

erfc = np.vectorize(math.erfc, otypes=[np.float64])


@dataclass(frozen=True)
class FlipCount:
    """How many tokens were routed otherwise than exact, how many honest rounding would, and the chance of as many."""

    observed: int
    expected: float
    chance: float

    @property
    def passed(self) -> bool:
        """Whether so many flips are honest."""
        return self.chance >= FLIP_ALARM_RATE


def count_flips(num_flips: int, evidence: Evidence, honest: Honest) -> FlipCount:
    """Hold the flips of a case against the chances of all its tokens, in every layer whose choice is shown."""
    found = [np.zeros(0)]
    for call, tap in evidence.observed:
        layer, operation = split_tap(tap)
        if operation == evidence.graph.choice:
            key = (call, tap_name(layer, evidence.graph.scores))
            mask = evidence.masks[call, operation][..., 0]  # [b, t]
            found.append(flip_chances(honest.exact[key], honest.error[key], evidence.config)[mask])
    chances = np.concatenate(found)
    return FlipCount(num_flips, float(chances.sum()), chance_of_at_least(num_flips, chances))


def flip_chances(probabilities: Array, error: Array, config: LanguageModelConfig) -> Array:
    """Return the chance [b, t] that an honest port chooses otherwise, from exact scores [b, t, e] and errors [b, t].

    Every chosen expert may fall behind every other one; the chances of these pairs are added (Boole).
    """
    k = config.model.num_selected_experts
    ordered: Array = -np.sort(-probabilities, axis=-1)  # [b, t, e]
    gap = ordered[..., :k, None] - ordered[..., None, k:]  # [b, t, k, e - k]
    deviation = MODEL_FACTOR * math.sqrt(2) * np.maximum(error, np.finfo(np.float64).tiny)[..., None, None]
    pairs = np.where(gap <= TIED, 1.0, erfc(gap / deviation / math.sqrt(2)) / 2)
    chances: Array = np.minimum(pairs.sum((-1, -2)), 1.0)
    return chances


def chance_of_at_least(count: int, chances: Array) -> float:
    """Return the probability that at least so many of some independent events of given chances [n] happen."""
    if not count:
        return 1.0
    fewer = np.zeros(count + 1)  # of exactly 0, 1, … events; the last entry gathers all beyond
    fewer[0] = 1.0
    for chance in chances[chances > 0]:
        happened = fewer * chance
        fewer = fewer * (1 - chance)
        fewer[1:] += happened[:-1]
        fewer[-1] += happened[-1]
    return float(fewer[-1])
