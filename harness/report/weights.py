"""Weights that are not as stored, told once for all layers and models in which the same is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

from grok_conformance.harness.checks.loaded_weights import NO_SUCH, WeightProblem
from grok_conformance.harness.graph.grok_1 import GROK_1

LAYER = re.compile(rf"(?<={re.escape(GROK_1.layer_path.split('{layer}')[0])})\d+")
FIGURE = re.compile(r"\d+")


def grouped(problems: Sequence[WeightProblem]) -> list[str]:
    """Return a line for every mistake: its first tensor in full, then in how many other layers and models it is.

    What stands before the names of all tensors is one mistake.
    """
    groups: dict[tuple[str, str], list[WeightProblem]] = {}
    for each in problems:
        kind = each.likely or FIGURE.sub("#", each.problem)
        tensor = "" if each.likely and each.problem == NO_SUCH else LAYER.sub("*", each.tensor)
        groups.setdefault((tensor, kind), []).append(each)
    return [f"{same[0]}{further(same)}" for same in groups.values()]


def further(same: Sequence[WeightProblem]) -> str:
    """Return where else the same is wrong, an empty string where it is nowhere else."""
    if len(same) == 1:
        return ""
    layers = list(dict.fromkeys(found[0] for each in same if (found := LAYER.findall(each.tensor))))
    presets = list(dict.fromkeys(each.preset for each in same))
    where = [f"layers {', '.join(layers)}"] * (len(layers) > 1) + [f"presets {', '.join(presets)}"] * (len(presets) > 1)
    return f"; the same in {len(same) - 1} more{': ' if where else ''}{'; '.join(where)}"
