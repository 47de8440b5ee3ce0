"""Declarative tap maps: how what an engine records, under its own names and in its own layout, becomes taps.

A row gives the axes of the engine's tensor in the letters of the specification, `(..)` around those it keeps as one:

    TapSource("layers.*.attention.query", engine="blk.{layer}.q", axes="t (q h)")          one row, heads flattened
    TapSource("layers.*.attention.query", engine="blk.{layer}.q", axes="b (r g) t (j p)")  heads tiled, rotary pairs
    TapSource("logits", engine="lm_head", axes="b t v", padded="v")                        vocabulary padded at its end

A query head q is (g r), its place within the KV head's group last; the head width h is (p j), two halves p of width j.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from grok_conformance.harness.contract import Array, LanguageModelConfig, select_taps, split_tap, tap_names, tap_specs

ATOMS = {"q": ("g", "r"), "h": ("p", "j")}
"""Axes of the specification that an engine may take apart."""


@dataclass(frozen=True)
class TapSource:
    """One row of a tap map: a tap (`layers.*.` for all layers), the engine's name for it, and the engine's axes.

    `{layer}` in the name stands for the layer's index. An axis that the engine leaves out must have size 1. `padded`
    names axes that it pads at their end. The key axis s may have any size.
    """

    tap: str
    engine: str
    axes: str
    padded: str = ""


def shown_taps(tap_map: Sequence[TapSource]) -> tuple[str, ...]:
    """Return the globs of the taps that a map shows, as CandidateInfo takes them."""
    return tuple(row.tap for row in tap_map)


def map_taps(
    tap_map: Sequence[TapSource],
    config: LanguageModelConfig,
    tokens: Array,
    wanted: Collection[str],
    recorded: Mapping[str, Array],
) -> dict[str, Array]:
    """Return the wanted taps of one call on tokens [b, t], from what the engine recorded under its own names.

    What the engine did not record is left out. Raises ValueError for a tensor that does not fit its row.
    """
    specs = {spec.name: spec for spec in tap_specs()}
    sizes = {**config.axis_sizes, "b": tokens.shape[0], "t": tokens.shape[1], "p": 2, "j": config.model.key_size // 2}
    made = {}
    for row in tap_map:
        for tap in select_taps(select_taps(tap_names(config), [row.tap]), wanted):
            name = row.engine.format(layer=split_tap(tap)[0])
            if name in recorded:
                made[tap] = arrange(recorded[name], row, specs[row.tap].axes, sizes)
    return made


def arrange(x: Array, row: TapSource, axes: Sequence[str], sizes: Mapping[str, int]) -> Array:
    """Return an engine's tensor with the axes of its tap; raises ValueError where it does not fit its row."""
    groups = [tuple(many.split() or one) for many, one in re.findall(r"\(([\w ]+)\)|(\w)", row.axes)]
    if ("s",) in groups and len(groups) == x.ndim:
        sizes = {**sizes, "s": x.shape[groups.index(("s",))]}
    shape = [math.prod(sizes[letter] for letter in group) for group in groups]
    if len(shape) == x.ndim:
        ends = [size if {*group} & {*row.padded} else None for size, group in zip(shape, groups, strict=True)]
        x = x[tuple(slice(end) for end in ends)]
    if list(x.shape) != shape:
        raise ValueError(f"{row.engine}: shape {list(x.shape)}, expected {row.axes} = {shape}: mend the tap map")
    given = [atom for group in groups for letter in group for atom in ATOMS.get(letter, (letter,))]
    asked = [atom for letter in axes for atom in ATOMS.get(letter, (letter,))]
    left_out = [atom for atom in asked if atom not in given and sizes[atom] == 1]
    if sorted(given + left_out) != sorted(asked):
        raise ValueError(f"{row.engine}: axes {row.axes}, but {row.tap} has {' '.join(axes)}: mend the tap map")
    atoms = x.reshape([sizes[atom] for atom in left_out + given])
    return atoms.transpose([(left_out + given).index(atom) for atom in asked]).reshape([sizes[axis] for axis in axes])
