"""Declarative tap maps: how what an engine records, under its own names and in its own layout, becomes taps.

A row gives the axes of the engine's tensor in the letters of the specification, `(..)` around those it keeps as one:

    TapSource("layers.*.attention.query", engine="blk.{layer}.q", axes="t (q h)")          one row, heads flattened
    TapSource("layers.*.attention.query", engine="blk.{layer}.q", axes="b (r g) t (j p)")  heads tiled, rotary pairs
    TapSource("logits", engine="lm_head", axes="b t v", padded="v")                        vocabulary padded at its end

A query head q is (g r), its place within the KV head's group last; the head width h is (p j), two halves p of width j.
What an engine fuses, shards, adds up later or keeps without padding is read through an operator of `tap_sources`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from grok_conformance.harness.contract import Array, LanguageModelConfig, select_taps, split_tap, tap_names, tap_specs
from grok_conformance.harness.contract.tap_sources import NotRecordedError, Source, names_of, read, sizes_of

ALIKE = 0.85
"""The likeness, 0 to 1, from which a name that is recorded may be the one that was meant."""

ATOMS = {"q": ("g", "r"), "h": ("p", "j")}
"""Axes of the specification that an engine may take apart."""


@dataclass(frozen=True)
class TapSource:
    """One row of a tap map: a tap (`layers.*.` for all layers), where the engine has it, and the engine's axes.

    `{layer}` in a name stands for the layer's index. An axis that the engine leaves out must have size 1. `padded`
    names axes that it pads at their end. The key axis s may have any size.
    """

    tap: str
    engine: Source
    axes: str
    padded: str = ""


def shown_taps(tap_map: Sequence[TapSource]) -> tuple[str, ...]:
    """Return the globs of the taps that a map shows, as CandidateInfo takes them.

    Raises ValueError for a tap that is none, and for one that two rows claim.
    """
    known = [spec.name for spec in tap_specs()]
    for tap, rows in Counter(row.tap for row in tap_map).items():
        if tap not in known:
            raise ValueError(f"tap map: {tap} is no tap; `python -m grok_conformance list taps` has their names")
        if rows > 1:
            raise ValueError(f"tap map: {tap} is claimed by {rows} rows; leave one")
    return tuple(row.tap for row in tap_map)


def engine_names(tap_map: Sequence[TapSource]) -> tuple[str, ...]:
    """Return every name under which a map reads, `{layer}` not filled in: what `attach` is to record."""
    return tuple(dict.fromkeys(name for row in tap_map for name in names_of(row.engine)))


def map_taps(
    tap_map: Sequence[TapSource],
    config: LanguageModelConfig,
    tokens: Array,
    wanted: Collection[str],
    recorded: Mapping[str, Array],
) -> dict[str, Array]:
    """Return the wanted taps of one call on tokens [b, t], from what the engine recorded under its own names.

    What the engine did not record is left out. Raises ValueError for a tensor that does not fit its row, for a name
    that is not recorded where one nearly like it is that no row reads, and for a map that `shown_taps` refuses.
    """
    shown_taps(tap_map)
    specs = {spec.name: spec for spec in tap_specs()}
    sizes = sizes_of(config, tokens.shape)
    layers = range(config.model.num_layers)
    known = {name.replace("{layer}", str(layer)) for name in engine_names(tap_map) for layer in layers}
    made = {}
    for row in tap_map:
        for tap in select_taps(select_taps(tap_names(config), [row.tap]), wanted):
            try:
                tensor = read(row.engine, recorded, sizes, split_tap(tap)[0])
            except NotRecordedError as error:
                refuse_misspelt(row, str(error), recorded, known)
                continue
            except ValueError as error:
                raise ValueError(f"{row.tap}: {error}: fix the tap map") from None
            made[tap] = arrange(tensor, row, specs[row.tap].axes, sizes)
    return made


def refuse_misspelt(row: TapSource, name: str, recorded: Collection[str], known: Collection[str]) -> None:
    """Raise ValueError where a name that is not recorded is nearly one that is, and that no row of the map reads."""
    if near := get_close_matches(name, set(recorded).difference(known), 1, ALIKE):
        raise ValueError(f"{row.tap}: the engine recorded no {name!r}; did you mean {near[0]!r}? fix the tap map")


def arrange(x: Array, row: TapSource, axes: Sequence[str], sizes: Mapping[str, int]) -> Array:
    """Return an engine's tensor with the axes of its tap; raises ValueError where it does not fit its row."""
    groups = [tuple(many.split() or one) for many, one in re.findall(r"\(([\w ]+)\)|(\w)", row.axes)]
    if ("s",) in groups and len(groups) == x.ndim:
        sizes = {**sizes, "s": x.shape[groups.index(("s",))]}
    if absent := [letter for group in groups for letter in group if letter not in sizes]:
        raise ValueError(
            f"{row.tap}: axes {row.axes!r}: no axis {absent[0]}; there are {' '.join(sizes)}: fix the tap map"
        )
    shape = [math.prod(sizes[letter] for letter in group) for group in groups]
    if len(shape) == x.ndim:
        ends = [size if {*group} & {*row.padded} else None for size, group in zip(shape, groups, strict=True)]
        x = x[tuple(slice(end) for end in ends)]
    if list(x.shape) != shape:
        raise ValueError(f"{row.tap}: shape {list(x.shape)}, expected {row.axes} = {shape}: fix the tap map")
    given = [atom for group in groups for letter in group for atom in ATOMS.get(letter, (letter,))]
    asked = [atom for letter in axes for atom in ATOMS.get(letter, (letter,))]
    left_out = [atom for atom in asked if atom not in given and sizes[atom] == 1]
    if sorted(given + left_out) != sorted(asked):
        raise ValueError(f"{row.tap} has axes {' '.join(axes)}, but the row says {row.axes}: fix the tap map")
    atoms = x.reshape([sizes[atom] for atom in left_out + given])
    return atoms.transpose([(left_out + given).index(atom) for atom in asked]).reshape([sizes[axis] for axis in axes])
