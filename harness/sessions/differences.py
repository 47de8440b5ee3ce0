"""How two golden sets, or the reports of two runs, differ: operation by operation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset, tap_key
from grok_conformance.harness.checks.end_to_end import Honest, flips, honest_run, per_token, route_of
from grok_conformance.harness.checks.evidence import Evidence, Key, gather
from grok_conformance.harness.checks.flips import count_flips
from grok_conformance.harness.contract import Array, CandidateInfo, split_tap, tap_name, tap_names, tap_specs
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.golden.reading import Golden, read_case, read_preset, read_taps
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import ExactWeights
from grok_conformance.harness.judging.verdict import PASSING
from grok_conformance.harness.measure.comparison import compare_routing
from grok_conformance.harness.measure.noise import SAFETY
from grok_conformance.harness.report.figures import ratio_of, systematic_ratio

T = TypeVar("T")
Reading = Literal["identical", "within fences", "beyond fences", "fixed", "gone", "new"]

ROUTE = GROK_1.choice

EVERYTHING = CandidateInfo(name="golden", version="")


@dataclass(frozen=True)
class Move:
    """How one operation moved from an old run to a new one.

    `old` and `new` are measured / allowed of the runs, `old_error` and `new_error` their end-to-end errors (root mean
    square, worst token), `distance` how far the values moved in units of what two honest runs may differ by; NaN where
    that is not known. `where` is the tap and case that moved most; `note` tells what no figure does.
    """

    operation: str
    dtypes: str
    reading: Reading
    old: float = math.nan
    new: float = math.nan
    old_error: float = math.nan
    new_error: float = math.nan
    distance: float = math.nan
    num_changed: int = 0
    num_taps: int = 0
    where: str = ""
    note: str = ""


def golden_moves(old: Golden, new: Golden) -> tuple[list[Move], list[str]]:
    """Return how every operation moved from one golden set to another, and what could not be compared.

    What is compared is the error along each set's own choice of experts, per token, against what two honest runs may
    differ by; and the choices themselves, each with the scores along its own route. Taps of equal digests are not read.
    """
    distances: dict[tuple[str, str], list[tuple[float, str]]] = {}
    notes = [f"case {name} is only in {which}" for which, name in only_in(old.manifest.cases, new.manifest.cases)]
    for case_id in sorted(set(old.manifest.cases) & set(new.manifest.cases)):
        before, after = old.manifest.cases[case_id], new.manifest.cases[case_id]
        preset = case_id.split("/", 1)[0]
        if before.inputs != after.inputs or old.manifest.presets[preset] != new.manifest.presets[preset]:
            notes.append(f"case {case_id} has other inputs or weights")
            continue
        same = {key for key in before.taps if before.taps[key] == after.taps.get(key)}
        dtype = read_case(old, case_id).fprop_dtype
        moved = case_distances(old, new, case_id) if len(same) < len(before.taps) else {}
        for key in before.taps:
            operation = split_tap(key.split("/", 1)[1])[1]
            distance = 0.0 if key in same else moved.get(key, 0.0)
            distances.setdefault((operation, dtype), []).append(
                (distance if key not in same else -1.0, f"{case_id} {key}")
            )
    return [golden_move(operation, dtype, found) for (operation, dtype), found in in_order(distances)], notes


def golden_move(operation: str, dtype: str, found: list[tuple[float, str]]) -> Move:
    """Return the move of one operation from the distances of its taps, below 0 where the digest is the same."""
    distance, where = max(found)
    num_changed = sum(each >= 0 for each, _ in found)
    reading: Reading = "identical" if not num_changed else "within fences" if distance <= 1 else "beyond fences"
    excused = operation == ROUTE and reading == "within fences"
    return Move(
        operation,
        dtype,
        reading,
        distance=max(distance, 0.0),
        num_changed=num_changed,
        num_taps=len(found),
        where=where if num_changed else "",
        note="other experts, or in another order, as honest rounding may choose" if excused else "",
    )


def case_distances(old: Golden, new: Golden, case_id: str) -> dict[str, float]:
    """Return how far every tap of a case moved, its worst token, in units of what two honest runs may differ by."""
    case = read_case(old, case_id)
    preset = read_preset(old, case.preset)
    weights = ExactWeights(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    runs = [honest(preset, case, dict(read_taps(golden, case_id)), weights) for golden in (old, new)]
    (before, exact_before), (after, exact_after) = runs
    found = route_distances(case, runs)
    for call in range(len(case.calls)):
        for tap in tap_names(before.config):
            key, operation = (call, tap), split_tap(tap)[1]
            if operation == ROUTE:
                continue
            mask = np.broadcast_to(before.masks[call, operation], before.observed[key].raw.shape)
            errors = [
                np.where(mask, run.observed[key].cleaned - exact.exact[key], 0.0)
                for run, exact in ((before, exact_before), (after, exact_after))
            ]
            moved = per_token(errors[1] - errors[0], SPECS[operation].axes)
            allowed = exact_before.allowed(key) + exact_after.allowed(key)
            found[tap_key(call, tap)] = float((moved / allowed).max())
    return found


def route_distances(case: Case, runs: Sequence[tuple[Evidence, Honest]]) -> dict[str, float]:
    """Return how far the choice of experts moved in every tap that shows it, in the run where it is the least excused.

    Only tokens whose experts changed count. Each run is held to the exact scores along its own route, since what
    follows a wrong choice is right for that choice.
    """
    (before, _), (after, _) = runs
    changed = {key: (before.observed[key].raw != after.observed[key].raw).any(-1) for key in route_of(before)}  # [b, t]
    distances = [chosen_distances(case, evidence, exact, changed) for evidence, exact in runs]
    return {tap_key(*key): max(each[key] for each in distances) for key in changed}


def chosen_distances(case: Case, evidence: Evidence, exact: Honest, changed: Mapping[Key, Array]) -> dict[Key, float]:
    """Return by (call, tap) the widest gap of exact scores at these tokens [b, t] over what honest noise excuses.

    Infinite where no noise excuses a choice, or where more of them lie within noise than their margins explain.
    """
    flipped = [
        flip
        for flip in flips(evidence, exact, evidence.config)
        if changed[flip.call, tap_name(flip.layer, ROUTE)][flip.index]
    ]
    explained = count_flips(len(flipped), evidence, exact).passed
    found = {}
    for (call, tap), tokens in changed.items():
        layer = split_tap(tap)[0]
        key, scores = (call, tap), (call, tap_name(layer, GROK_1.scores))
        index, mask = evidence.observed[key].raw, evidence.masks[call, ROUTE] & tokens[..., None]
        slack = SAFETY * exact.error[scores][..., None]
        problem = compare_routing(call, tap, exact.exact[scores], index, mask, slack).problem
        if case.tie_rule and not problem:  # binding only where the run's own scores are equal
            problem = compare_routing(call, tap, evidence.observed[scores].cleaned, index, mask, 0.0).note
        wrong = problem or (mask.any() and not explained)
        gaps = [flip.gap / flip.allowed for flip in flipped if (flip.call, flip.layer) == (call, layer)]
        found[key] = math.inf if wrong else max(gaps, default=0.0)
    return found


def honest(preset: Preset, case: Case, taps: Mapping[str, Array], weights: ExactWeights) -> tuple[Evidence, Honest]:
    """Return what a golden run shows and the exact run along its own choice of experts."""
    evidence = gather(preset, case, EVERYTHING, taps)
    return evidence, honest_run(preset, case, route_of(evidence), weights, evidence.recorded)


def report_moves(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Move]:
    """Return how every operation of one candidate moved between two reports.

    Operations are matched by compute dtype where the runs share one, else by name alone: each is measured against the
    fences of its own dtype.
    """
    sides = [{(row["operation"], row["fprop_dtype"]): row for row in each["operations"]} for each in (old, new)]
    shared = {dtype for _, dtype in sides[0]} & {dtype for _, dtype in sides[1]}
    if not shared:
        sides = [by_name(side) for side in sides]
    before, after = sides
    errors = [end_to_end(each, dtypes=bool(shared)) for each in (old, new)]
    moves = (report_move(key, before.get(key), after.get(key)) for key, _ in in_order({**before, **after}))
    return [
        replace(move, old_error=errors[0].get(key, math.nan), new_error=errors[1].get(key, math.nan))
        for move in moves
        for key in [(move.operation, move.dtypes if shared else "")]
    ]


def end_to_end(row: Mapping[str, Any], *, dtypes: bool) -> dict[tuple[str, str], float]:
    """Return the largest end-to-end error of every operation, by compute dtype or whatever the dtype."""
    errors: dict[tuple[str, str], float] = {}
    for case in row["cases"]:
        for drift in case["drifts"]:
            key = split_tap(drift["tap"])[1], case["case"].rpartition(".")[2] if dtypes else ""
            errors[key] = max(errors.get(key, 0.0), float(drift["observed_error"]))
    return errors


def by_name(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the worst row of every operation, whatever its dtype."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for (operation, _), row in rows.items():
        key = operation, ""
        found[key] = row if key not in found else max(found[key], row, key=measured)
    return found


def report_move(key: tuple[str, str], old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Move:
    """Return the move of one operation between two reports."""
    if old is None or new is None:
        present = new or old or {}
        return Move(key[0], present["fprop_dtype"], "new" if old is None else "gone", where=present["worst_case"])
    readings: dict[tuple[bool, bool], Reading] = {
        (True, True): "within fences",
        (True, False): "beyond fences",
        (False, True): "fixed",
        (False, False): "beyond fences",
    }
    same = all(old[figure] == new[figure] for figure in ("fprop_dtype", "status", "worst", "systematic"))
    return Move(
        key[0],
        " → ".join(dict.fromkeys((old["fprop_dtype"], new["fprop_dtype"]))),
        "identical" if same else readings[old["status"] in PASSING, new["status"] in PASSING],
        old=measured(old),
        new=measured(new),
        where=new["worst_case"],
    )


def measured(row: Mapping[str, Any]) -> float:
    """Return measured / allowed of an operation: its worst comparison, or what all its taps err in common."""
    return max((ratio_of(row["worst"]), *map(systematic_ratio, row["systematic"])))


def only_in(old: Iterable[str], new: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (OLD or NEW, name) for every name that only one side has."""
    before, after = set(old), set(new)
    yield from (("OLD", name) for name in sorted(before - after))
    yield from (("NEW", name) for name in sorted(after - before))


def in_order(rows: Mapping[tuple[str, str], T]) -> list[tuple[tuple[str, str], T]]:
    """Return rows by (operation, dtype) in the order of the forward pass."""
    order = [spec.operation for spec in tap_specs()]
    return sorted(rows.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
