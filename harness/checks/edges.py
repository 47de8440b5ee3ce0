"""What may be tried of the edges of the graph: that a row read of an input what is not shown of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.readings import PHASES, Reading, Readings
from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.graph.row import RESIDUAL_STREAM, Operation


def of_edges(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways with another reading of one input of a row, in one phase or in both."""
    if told[0].evidence.config.fprop_dtype != "float32":  # which leaves nothing to keep back
        for edge in _of_taps(row, told):
            summed: tuple[Reading, ...] = ("summed",) if edge[0][1] == RESIDUAL_STREAM else ()
            measured: tuple[Reading, ...] = ("measured",) if row.measures and edge[0][0] == row.name else ()
            yield from _read_otherwise([edge], ways, ("rounded", "carried", *summed, *measured))


def computed_again(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways in which a row reads an input that a compiled program computed once more for it, in float32.

    The copy adds in another order, and is not what is shown. Where terms cancel the two differ by far more than a unit
    in the last place.
    """
    edges = [(row.name, name) for name in row.inputs if in_full(name, told)]
    groups = [*([edge] for edge in edges), *([edges] if len(edges) > 1 else [])]
    yield from _read_otherwise(groups, ways, ("rounded", "again"))


def of_caches(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways in which a row reads what a call has just stored as it was before it was stored, in one phase or both.

    They are for what nothing else explains: what was not rounded yet is known less well, and that alone is likelier.
    """
    yield from _read_otherwise(_of_caches(row, told), ways)


def _read_otherwise(
    edges: Sequence[Sequence[tuple[str, str]]],
    ways: Ways,
    kinds: tuple[Reading, ...] = ("rounded", "carried"),
) -> Iterator[Ways]:
    for edge in edges:
        for pair in sorted(itertools.product(kinds, repeat=len(PHASES)), key=lambda pair: len(set(pair))):
            changed: Readings = {
                (phase, *at): _reading_of(at[1], reading)
                for at in edge
                for phase, reading in zip(PHASES, pair, strict=True)
            }
            readings = {**ways.readings, **changed}
            kept: Readings = {at: reading for at, reading in readings.items() if reading != "rounded"}
            if kept != ways.readings:
                yield replace(ways, readings=kept)


def _of_caches(row: Operation, told: Sequence[Exhibit]) -> list[list[tuple[str, str]]]:
    """Return the edges by which a row may read what a call has just stored as it was before it was stored.

    As it is shown, where the cache is narrower, or as it was before that was rounded.
    """
    graph, recorded = told[0].evidence.graph, told[0].evidence.recorded
    edges: list[list[tuple[str, str]]] = []
    for cache in (name for name in row.inputs if name in graph.copies):
        stored = graph.by_name[cache].inputs[1]
        narrower = recorded[cache] != recorded[stored] or graph.by_name[cache].unquantised is not None
        edges += [[(row.name, cache)]] if narrower else []
        edges += [[(row.name, cache), (cache, stored)]] if carriable(stored, told) else []
    return edges


def _of_taps(row: Operation, told: Sequence[Exhibit]) -> list[list[tuple[str, str]]]:
    """Return the edges by which a row, or all of the residual stream, may read more than is shown."""
    edges = [[(row.name, name)] for name in row.inputs if carriable(name, told)]
    if row.is_stream:  # a stream that is kept in float32 flows unrounded through all of them, as what is added may
        graph = told[0].evidence.graph
        stream = [*graph.stream_edges]
        added = [(name, graph.by_name[name].inputs[1]) for name, _ in stream]
        edges += [stream, [*stream, *(edge for edge in added if carriable(edge[1], told))]]
    return edges


def _reading_of(name: str, reading: Reading) -> Reading:
    """Return a reading of the residual stream as it is of another input, which is a sum or none."""
    return "carried" if reading == "summed" and name != RESIDUAL_STREAM else reading


def only_recorded(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways in which the taps that a row reads are no more than records, in one phase or in both.

    A port must say of itself that it is fused: nothing is then known of how the values were rounded.
    """
    if not all(one.evidence.fused and one.evidence.config.fprop_dtype != "float32" for one in told):
        return
    names = [name for name in row.inputs if carriable(name, told)]
    for phases in (*((phase,) for phase in PHASES), PHASES):
        unknown: Readings = {(phase, row.name, name): "recorded" for phase in phases for name in names}
        yield replace(ways, readings={**ways.readings, **unknown})


def carriable(name: str, told: Sequence[Exhibit]) -> bool:
    """Return whether what an input's producer computed may be wider than what is shown of it."""
    dtypes = _recorded(name, told)
    return bool(dtypes) and "float32" not in dtypes


def in_full(name: str, told: Sequence[Exhibit]) -> bool:
    """Return whether all that an input's producer computed is shown, in float32."""
    return _recorded(name, told) == {"float32"}


def _recorded(name: str, told: Sequence[Exhibit]) -> set[str]:
    """Return the dtypes in which an input is shown, none where it is hidden, or was only chosen or stored."""
    graph = told[0].evidence.graph
    if name == graph.choice or name.startswith("previous:"):
        return set()
    operations = {graph.by_name[maker].tap for maker in graph.makers(name, told[0].evidence.config)}
    shown = {split_tap(tap)[1] for _, tap in told[0].evidence.observed}
    stored = not operations.isdisjoint(graph.copies)  # what is read of a cache is what was stored
    return set() if stored or not operations <= shown else {told[0].evidence.recorded[each] for each in operations}
