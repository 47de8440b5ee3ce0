"""What the page shows, as plain data made from the JSON report alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grok_conformance.harness.contract import split_tap, tap_specs
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis, describe
from grok_conformance.harness.judging.coverage import Coverage
from grok_conformance.harness.judging.coverage import describe as describe_coverage
from grok_conformance.harness.judging.regression import Regression
from grok_conformance.harness.judging.verdict import PASSING
from grok_conformance.harness.report.agreement import Growth, Layer, Phase, by_position, growth, phases, routing
from grok_conformance.harness.report.case_rows import CaseRow, case_rows
from grok_conformance.harness.report.explanation import remedies
from grok_conformance.harness.report.figures import Figures, added, dtype_of, figures, number, ratio_of, short_ratio

SHADES = (0.25, 0.5, 1.0, 4.0, 64.0)
"""Upper edges of the colours of measured / allowed: three within the fence, three beyond it."""


@dataclass(frozen=True)
class Cell:
    """One operation in one layer and compute dtype, over all cases: its worst comparison, and all errors together."""

    operation: str
    layer: str
    dtype: str
    status: str
    ratio: float
    case: str
    tap: str
    call: int
    problem: str
    num_elements: int
    histogram: Sequence[int]
    tokens: Sequence[Figures]
    diagnosis: str
    plan: str
    changes: Sequence[str]

    @property
    def shade(self) -> int:
        """The colour of the cell, 0 lightest."""
        return sum(self.ratio > edge for edge in SHADES) if not self.problem else len(SHADES)

    @property
    def shown(self) -> str:
        """What the cell says in the map."""
        return "!" if self.problem else "–" if not self.num_elements else short_ratio(self.ratio)


@dataclass(frozen=True)
class Column:
    """A column of the map: the whole model (the layer ""), one layer, or adjacent ones in which everything passes."""

    layers: Sequence[str]

    @property
    def label(self) -> str:
        """What stands above it."""
        return self.layers[0] or "model" if len(self.layers) == 1 else f"{self.layers[0]}–{self.layers[-1]}"


@dataclass(frozen=True)
class Fault:
    """What is wrong, in one line: the likely fault or what the values resemble, its operations and layers."""

    name: str
    operations: Sequence[str]
    layers: Sequence[int]


@dataclass(frozen=True)
class CandidateView:
    """All that the page shows of one candidate."""

    name: str
    version: str
    commit: str
    status: str
    verdict: str
    num_passed: int
    num_cases: int
    faults: Sequence[Fault]
    reasons: Sequence[str]
    cells: Mapping[tuple[str, str, str], Cell]
    operations: Sequence[str]
    columns: Sequence[tuple[str, Sequence[Column]]]
    cases: Sequence[CaseRow]
    layers: Sequence[Layer]
    phases: Sequence[Phase]
    growth: Sequence[Growth]
    by_position: Mapping[str, Mapping[str, Mapping[str, float]]]
    seconds: float
    alternatives: Sequence[tuple[str, str, str]]
    facts: Mapping[str, str]
    exercised: Sequence[str]
    deviations: Sequence[str]
    regression: Regression | None

    @property
    def positions(self) -> dict[tuple[str, str, str], int]:
        """The place of every cell among them all."""
        return {key: i for i, key in enumerate(self.cells)}

    def worst(self, operation: str, column: Column, dtype: str) -> Cell | None:
        """The worst cell of an operation in the layers of a column, None where it is in none of them."""
        found = [cell for layer in column.layers if (cell := self.cells.get((operation, layer, dtype)))]
        return max(found, key=lambda cell: cell.ratio, default=None)

    @property
    def is_folded(self) -> bool:
        """Whether the map has layers folded into one column."""
        return any(len(column.layers) > 1 for _, columns in self.columns for column in columns)


def candidate_view(row: Mapping[str, Any]) -> CandidateView:
    """Return what the page shows of one candidate of a JSON report."""
    known = [spec.operation for spec in tap_specs()]
    made = sorted(make_cells(row), key=lambda cell: (known.index(cell.operation), depth(cell.layer), cell.dtype))
    cells = {(cell.operation, cell.layer, cell.dtype): cell for cell in made}
    dtypes = sorted({dtype for _, _, dtype in cells})
    return CandidateView(
        name=row["name"],
        version=row["version"],
        commit=row.get("commit", ""),
        status=row["status"],
        verdict=row["summary"],
        num_passed=sum(case["status"] in PASSING for case in row["cases"]),
        num_cases=len(row["cases"]),
        faults=faults_of(row),
        reasons=other_reasons(row),
        cells=cells,
        operations=[name for name in known if any(operation == name for operation, _, _ in cells)],
        columns=[(dtype, columns_of([cell for cell in made if cell.dtype == dtype])) for dtype in dtypes],
        cases=case_rows(row),
        layers=routing(row),
        phases=phases(row),
        growth=growth(row),
        by_position=by_position(row),
        seconds=row["seconds"],
        alternatives=[
            (each["operation"], each["fprop_dtype"], each["alternative"])
            for each in row["operations"]
            if each["alternative"]
        ],
        facts=facts(row),
        exercised=[describe_coverage(Coverage(**each)) for each in row["coverage"]],
        deviations=[deviation(each) for each in row["waivers"]],
        regression=Regression(**row["regression"]) if row.get("regression") else None,
    )


def depth(layer: str) -> int:
    """Return the place of a layer's column; the whole model comes first."""
    return int(layer or -1)


def columns_of(cells: Sequence[Cell]) -> list[Column]:
    """Return the columns of one compute dtype in order; adjacent layers in which everything passes are one."""
    wrong = {cell.layer for cell in cells if cell.status not in PASSING}
    layers = sorted({cell.layer for cell in cells}, key=depth)
    columns: list[Column] = []
    for is_folded, run in itertools.groupby(layers, key=lambda layer: bool(layer) and layer not in wrong):
        adjacent = tuple(run)
        columns += [Column(adjacent)] if is_folded else [Column((layer,)) for layer in adjacent]
    return columns


def deviation(waiver: Mapping[str, Any]) -> str:
    """Return a known deviation in one line: where, what, until when, and why."""
    what = waiver["fault"] or waiver["says"] or "deviates"
    return f"{waiver['tap'] or 'declines'}: {what}, until {waiver['expires']} ({waiver['reason']})"


def make_cells(row: Mapping[str, Any]) -> Iterator[Cell]:
    """Yield the pooled comparisons of every operation, layer and compute dtype."""
    pooled: dict[tuple[str, str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for case in row["cases"]:
        for comparison in case["comparisons"]:
            layer, operation = split_tap(comparison["tap"])
            key = operation, "" if layer is None else str(layer), dtype_of(case["case"])
            pooled.setdefault(key, []).append((case["case"], comparison))
    diagnoses = {(each["operation"], each["fprop_dtype"]): diagnosis_of(each) for each in row["operations"]}
    plans = {(each["operation"], each["fprop_dtype"]): each["alternative"] for each in row["operations"]}
    for (operation, place, dtype), found in pooled.items():
        case, worst = max(found, key=lambda pair: ratio_of(pair[1]))
        ratio = ratio_of(worst)
        told = diagnoses.get((operation, dtype)) if not ratio <= 1 else None
        yield Cell(
            operation=operation,
            layer=place,
            dtype=dtype,
            status="waived" if worst["waived"] else "fail" if not ratio <= 1 else "pass",
            ratio=ratio,
            case=case,
            tap=worst["tap"],
            call=worst["call"],
            problem=worst["problem"],
            num_elements=sum(comparison["num_elements"] for _, comparison in found),
            histogram=added(comparison["histogram"] for _, comparison in found),
            tokens=[figures(each) for each in worst["tokens"] or [worst] if each["index"]],
            diagnosis="" if told is None else describe(told),
            changes=() if told is None else remedies(told),
            plan=plans.get((operation, dtype), ""),
        )


def diagnosis_of(operation: Mapping[str, Any]) -> Diagnosis | None:
    """Return the diagnosis of an operation, None where there is none."""
    found = operation["diagnosis"]
    if found is None:
        return None
    numbers = {key: number(found[key]) for key in ("coefficient", "standard_error", "explained", "log10_ratio")}
    return Diagnosis(**{**found, "faults": tuple(found["faults"]), **numbers})


def faults_of(row: Mapping[str, Any]) -> list[Fault]:
    """Return the likely faults of a candidate, each with all operations and layers that show it."""
    gathered: dict[str, tuple[list[str], set[int]]] = {}
    for operation in row["operations"]:
        if operation["status"] not in PASSING:
            found = diagnosis_of(operation)
            name = (
                "no known fault" if found is None else " or ".join(found.faults) or found.resembles or "no known fault"
            )
            names, layers = gathered.setdefault(name, ([], set()))
            names.append(operation["operation"])
            layers.update(operation["layers_at_fault"])
    return [Fault(name, list(dict.fromkeys(names)), sorted(layers)) for name, (names, layers) in gathered.items()]


def other_reasons(row: Mapping[str, Any]) -> list[str]:
    """Return what no failing operation explains: weights that differ, and why cases did not pass, each reason once."""
    explained = {case for operation in row["operations"] for case in operation["cases_at_fault"]}
    others: dict[str, list[str]] = {}
    for case in row["cases"]:
        if case["status"] not in PASSING and not case["waived"] and case["case"] not in explained:
            others.setdefault(f"{case['status']}: {case['reason']}", []).append(case["case"])
    weights = [f"weights of {each['preset']}: {each['tensor']}: {each['problem']}" for each in row["weights"]]
    told = [
        f"{cases[0]}: {reason}" if len(cases) == 1 else f"{len(cases)} cases, such as {cases[0]}, {reason}"
        for reason, cases in others.items()
    ]
    return [*row["outdated"], *weights, *told]


def facts(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the plain facts of a run, in words."""
    repeated = {case["repeatable"] for case in row["cases"]} - {None}
    further = sum(len(case["runs"][1:]) for case in row["cases"])
    apart = [f"{case['case']}: {case['reason']}" for case in row["cases"] if case["cause"]]
    return {
        "level": row["level"] + (f"; the next would add {', '.join(row['next_taps'])}" if row["next_taps"] else ""),
        "repeatable": "not tried" if not repeated else "bit for bit" if repeated == {True} else "no",
        "further runs": apart[0] if apart else f"{further}, no case passes in one and fails in another",
        "seconds": f"{row['seconds']:.1f}",
        "elements compared": f"{sum(c['num_elements'] for case in row['cases'] for c in case['comparisons']):,}",
    }
