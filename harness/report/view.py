"""What the page shows, as plain data made from the JSON report alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grok_conformance.harness.contract import DTYPES, split_tap, tap_name, tap_specs
from grok_conformance.harness.diagnosis.matched_filter import Diagnosis, describe
from grok_conformance.harness.judging.baseline import Regression
from grok_conformance.harness.judging.verdict import PASSING
from grok_conformance.harness.measure.histogram import EDGES
from grok_conformance.harness.report.figures import number, ratio_of, short_ratio

SHADES = (0.25, 0.5, 1.0, 4.0, 64.0)
"""Upper edges of the colours of measured / allowed: three within the fence, three beyond it."""

STREAM = ("attention.residual", "output")
"""The taps of every layer that are the residual stream."""

CLOSE = EDGES.index(1.0) + 1
"""Bins of routing margins within honest noise."""


@dataclass(frozen=True)
class Figures:
    """One element of a tap as the page writes it."""

    index: str
    observed: str
    exact: str
    expected: str
    error: str
    fence: str
    times: str


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

    @property
    def shade(self) -> int:
        """The colour of the cell, 0 lightest."""
        return sum(self.ratio > edge for edge in SHADES) if not self.problem else len(SHADES)

    @property
    def shown(self) -> str:
        """What the cell says in the map."""
        return "!" if self.problem else "–" if not self.num_elements else short_ratio(self.ratio)


@dataclass(frozen=True)
class Fault:
    """What is wrong, in one line: the likely fault or the lack of one, the operations and layers that have it."""

    name: str
    operations: Sequence[str]
    layers: Sequence[int]


@dataclass(frozen=True)
class Layer:
    """The routing of one layer: compared tokens, those within noise of another choice, and other choices made."""

    layer: int
    num_tokens: int
    num_close: int
    excused: int
    unexcused: int
    histogram: Sequence[int]


@dataclass(frozen=True)
class Phase:
    """How the logits agree in one kind of call and compute dtype; KL divergences in nats."""

    kind: str
    dtype: str
    num_tokens: int
    mean_kl: float
    worst_kl: float
    expected_kl: float
    top_1: float


@dataclass(frozen=True)
class Growth:
    """End-to-end error along the residual stream in the deepest case of one dtype, worst token of each tap."""

    dtype: str
    case: str
    taps: Sequence[str]
    observed: Sequence[float]
    honest: Sequence[float]
    expected: Sequence[float]


@dataclass(frozen=True)
class CandidateView:
    """All that the page shows of one candidate."""

    name: str
    version: str
    status: str
    verdict: str
    num_passed: int
    num_cases: int
    faults: Sequence[Fault]
    reasons: Sequence[str]
    cells: Mapping[tuple[str, str, str], Cell]
    operations: Sequence[str]
    columns: Sequence[tuple[str, Sequence[str]]]
    layers: Sequence[Layer]
    phases: Sequence[Phase]
    growth: Sequence[Growth]
    by_position: Mapping[str, Mapping[str, Mapping[str, float]]]
    seconds: float
    alternatives: Sequence[str]
    facts: Mapping[str, str]
    deviations: Sequence[str]
    regression: Regression | None

    @property
    def positions(self) -> dict[tuple[str, str, str], int]:
        """The place of every cell among them all."""
        return {key: i for i, key in enumerate(self.cells)}


def candidate_view(row: Mapping[str, Any]) -> CandidateView:
    """Return what the page shows of one candidate of a JSON report."""
    known = [spec.operation for spec in tap_specs()]
    made = sorted(make_cells(row), key=lambda cell: (known.index(cell.operation), cell.layer, cell.dtype))
    cells = {(cell.operation, cell.layer, cell.dtype): cell for cell in made}
    dtypes = sorted({dtype for _, _, dtype in cells})
    columns = [(dtype, sorted({layer for _, layer, each in cells if each == dtype})) for dtype in dtypes]
    return CandidateView(
        name=row["name"],
        version=row["version"],
        status=row["status"],
        verdict=row["summary"],
        num_passed=sum(case["status"] in PASSING for case in row["cases"]),
        num_cases=len(row["cases"]),
        faults=faults_of(row),
        reasons=other_reasons(row),
        cells=cells,
        operations=[name for name in known if any(operation == name for operation, _, _ in cells)],
        columns=columns,
        layers=routing(row),
        phases=phases(row),
        growth=growth(row),
        by_position=by_position(row),
        seconds=row["seconds"],
        alternatives=[
            f"{each['operation']} in {each['fprop_dtype']}: {each['alternative']}"
            for each in row["operations"]
            if each["alternative"]
        ],
        facts=facts(row),
        deviations=[deviation(each) for each in row["waivers"]],
        regression=Regression(**row["regression"]) if row.get("regression") else None,
    )


def deviation(waiver: Mapping[str, Any]) -> str:
    """Return a known deviation in one line: where, what, until when, and why."""
    what = waiver["fault"] or waiver["says"] or "deviates"
    return f"{waiver['tap'] or 'declines'}: {what}, until {waiver['expires']} ({waiver['reason']})"


def dtype_of(case: str) -> str:
    """Return the compute dtype that a case's id ends with, an empty string where it names none."""
    dtype = case.rpartition(".")[2]
    return dtype if dtype in DTYPES else ""


def make_cells(row: Mapping[str, Any]) -> Iterator[Cell]:
    """Yield the pooled comparisons of every operation, layer and compute dtype."""
    pooled: dict[tuple[str, str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for case in row["cases"]:
        for comparison in case["comparisons"]:
            layer, operation = split_tap(comparison["tap"])
            key = operation, "" if layer is None else str(layer), dtype_of(case["case"])
            pooled.setdefault(key, []).append((case["case"], comparison))
    diagnoses = {(each["operation"], each["fprop_dtype"]): diagnosis_text(each) for each in row["operations"]}
    for (operation, place, dtype), found in pooled.items():
        case, worst = max(found, key=lambda pair: ratio_of(pair[1]))
        ratio = ratio_of(worst)
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
            diagnosis=diagnoses.get((operation, dtype), "") if not ratio <= 1 else "",
        )


def added(histograms: Iterable[Sequence[int]]) -> list[int]:
    """Return the sum of some histograms; an empty one adds nothing."""
    total = [0] * (len(EDGES) + 1)
    for counts in histograms:
        total = [a + b for a, b in zip(total, counts or [0] * len(total), strict=True)]
    return total


def figures(element: Mapping[str, Any]) -> Figures:
    """Return one element as the page writes it."""
    observed, exact, fence = (number(element[key]) for key in ("observed", "exact", "allowed"))
    error = abs(observed - exact)
    return Figures(
        index=",".join(map(str, element["index"])),
        observed=f"{observed:.7g}",
        exact=f"{exact:.7g}",
        expected=f"{number(element['expected']):.7g}",
        error=f"{error:.3g}",
        fence=f"{fence:.3g}",
        times=f"{error / fence:.3g}" if fence > 0 else "∞" if error else "0",
    )


def diagnosis_text(operation: Mapping[str, Any]) -> str:
    """Return the diagnosis of an operation in one line, an empty string where there is none."""
    found = operation["diagnosis"]
    if found is None:
        return ""
    numbers = {key: number(found[key]) for key in ("coefficient", "standard_error", "explained", "log10_ratio")}
    return describe(Diagnosis(**{**found, "faults": tuple(found["faults"]), **numbers}))


def faults_of(row: Mapping[str, Any]) -> list[Fault]:
    """Return the likely faults of a candidate, each with all operations and layers that show it."""
    gathered: dict[str, tuple[list[str], set[int]]] = {}
    for operation in row["operations"]:
        if operation["status"] not in PASSING:
            found = operation["diagnosis"]
            name = " or ".join(found["faults"]) if found and found["faults"] else "no known fault"
            names, layers = gathered.setdefault(name, ([], set()))
            names.append(operation["operation"])
            layers.update(operation["layers_at_fault"])
    return [Fault(name, list(dict.fromkeys(names)), sorted(layers)) for name, (names, layers) in gathered.items()]


def other_reasons(row: Mapping[str, Any]) -> list[str]:
    """Return what no failing operation explains: weights that differ, and why cases did not pass, each reason once."""
    explained = {case for operation in row["operations"] for case in operation["cases_at_fault"]}
    counts: dict[str, int] = {}
    for case in row["cases"]:
        if case["status"] not in PASSING and not case["waived"] and case["case"] not in explained:
            reason = f"{case['status']}: {case['reason']}"
            counts[reason] = counts.get(reason, 0) + 1
    weights = [f"weights of {each['preset']}: {each['tensor']}: {each['problem']}" for each in row["weights"]]
    return [*row["outdated"], *weights, *(f"{count} cases, {reason}" for reason, count in counts.items())]


def routing(row: Mapping[str, Any]) -> list[Layer]:
    """Return the routing of every layer over all cases."""
    flips = [flip for case in row["cases"] for flip in case["flips"]]
    margins = [margin for case in row["cases"] for margin in case["margins"]]
    found = []
    for layer in sorted({margin["layer"] for margin in margins}):
        histogram = added(margin["histogram"] for margin in margins if margin["layer"] == layer)
        excused = [number(flip["gap"]) <= number(flip["allowed"]) for flip in flips if flip["layer"] == layer]
        found.append(
            Layer(layer, sum(histogram), sum(histogram[:CLOSE]), sum(excused), len(excused) - sum(excused), histogram)
        )
    return found


def tokens_of(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (compute dtype, agreement) of every token whose logits were compared."""
    for case in row["cases"]:
        for token in case["logits"]:
            yield dtype_of(case["case"]), token


def phases(row: Mapping[str, Any]) -> list[Phase]:
    """Return how the logits agree in every kind of call, prefill beside decode."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for dtype, token in tokens_of(row):
        groups.setdefault((dtype, token["kind"]), []).append(token)
    return [
        Phase(
            kind,
            dtype,
            len(tokens),
            sum(number(token["kl_divergence"]) for token in tokens) / len(tokens),
            max(number(token["kl_divergence"]) for token in tokens),
            max(number(token["expected_kl"]) for token in tokens),
            sum(token["top_1"] for token in tokens) / len(tokens),
        )
        for (dtype, kind), tokens in sorted(groups.items())
    ]


def by_position(row: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the largest KL divergence at every position: {compute dtype: {kind of call: {position: nats}}}."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for dtype, token in sorted(tokens_of(row), key=lambda pair: (pair[0], pair[1]["position"])):
        kind, position = token["kind"], str(token["position"])
        worst = found.setdefault(dtype, {}).setdefault(kind, {})
        worst[position] = max(worst.get(position, 0.0), number(token["kl_divergence"]))
    return found


def growth(row: Mapping[str, Any]) -> list[Growth]:
    """Return the end-to-end error along the residual stream, of the deepest case of each compute dtype."""
    deepest: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for case in row["cases"]:
        layers = [split_tap(drift["tap"])[0] for drift in case["drifts"]]
        depth = max((layer for layer in layers if layer is not None), default=-1)
        if depth > deepest.get(dtype_of(case["case"]), (-1, case))[0]:
            deepest[dtype_of(case["case"])] = depth, case
    found = []
    for dtype, (depth, case) in sorted(deepest.items()):
        stream = [
            "embedding",
            *(tap_name(i, name) for i in range(depth + 1) for name in STREAM),
        ]
        drifts = {drift["tap"]: drift for drift in case["drifts"] if drift["call"] == 0}
        taps = [tap for tap in stream if tap in drifts]
        observed, honest, expected = (
            [number(drifts[tap][key]) for tap in taps] for key in ("observed_error", "honest_error", "expected_error")
        )
        found.append(Growth(dtype, case["case"], taps, observed, honest, expected))
    return found


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
