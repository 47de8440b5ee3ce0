"""From what a session found to published rates: a summary as data, a page for readers, and what must not be.

It is long because every table of the page stands beside the figures that it is made of.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grok_conformance.harness.diagnosis.power import VISIBLE, Table, power_of_run
from grok_conformance.harness.faults import FAULTS
from grok_conformance.harness.golden.reading import case_ids
from tests.fault_detection.experiments import Trial
from tests.fault_detection.rates import clopper_pearson
from tests.fault_detection.session import Results
from tests.fault_detection.trials import DTYPES
from tests.harness.honest_port import golden

FOLDER = Path(__file__).parent

RATES, PAGE = FOLDER / "rates.json", FOLDER / "RATES.md"

FOREIGN_BEGIN = "<!-- foreign plans: written by python -m tests.fault_detection.foreign_plans --write -->"
"""Begins what other commands write into the page."""
FOREIGN_END = "<!-- end of foreign plans -->"

SOURCES = {"oracle": "oracle with the fault (self-test)", "port": "torch port, patched by hand (headline)"}
ASPECTS = ("detected", "located", "named")
EXPERIMENTS = {
    "left_out.{}.detected": "fault missing from the table: still detected",
    "left_out.{}.unexplained": "fault missing from the table: reported as unexplained, or as another's on some values",
    "pairs.{}.named": "two faults at once: both named at their operations",
    "nulls.{}.rejected": "impostor in place of one tap: rejected",
}
POWER_CONFIDENCE = 0.99
BINS = (0.0, 0.1, 0.5, 0.9, 1.0)
POWER_RUNS = {"caches": "doses in the oracle", "logits": "whole faults in the oracle, of which logits are shown"}
"""What was run to compare powers, by the level of the taps shown."""


@dataclass(frozen=True)
class Rate:
    """How often something happened in a number of trials, with Clopper–Pearson bounds at 95 %."""

    count: int
    trials: int

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval that holds the true rate, two-sided."""
        return clopper_pearson(self.count, self.trials)

    def __str__(self) -> str:
        """Return the rate for a table: `58 of 60, 96.7 % (88.5–99.6)`."""
        if not self.trials:
            return "not measured"
        low, high = self.bounds
        return (
            f"{self.count} of {self.trials}, {100 * self.count / self.trials:.1f} % ({100 * low:.1f}–{100 * high:.1f})"
        )


UNMEASURED = Rate(0, 0)


def rates(results: Results) -> dict[str, Rate]:
    """Return every published rate by its name: `port.bfloat16.named`."""
    found = {}
    for source in SOURCES:
        for dtype in DTYPES:
            trials = [trial for trial in getattr(results, source) if trial.fprop_dtype == dtype]
            for aspect in ASPECTS:
                hits = sum(getattr(trial, aspect) for trial in trials)
                found[f"{source}.{dtype}.{aspect}"] = Rate(hits, len(trials))
    for dtype in DTYPES:
        left_out = [row for row in results.left_out if row.fprop_dtype == dtype]
        found[f"left_out.{dtype}.detected"] = Rate(sum(row.detected for row in left_out), len(left_out))
        found[f"left_out.{dtype}.unexplained"] = Rate(sum(not row.taken_for for row in left_out), len(left_out))
        pairs = [row for row in results.pairs if row.fprop_dtype == dtype]
        found[f"pairs.{dtype}.named"] = Rate(sum(row.named for row in pairs), len(pairs))
        nulls = [row for row in results.nulls if row.fprop_dtype == dtype]
        found[f"nulls.{dtype}.rejected"] = Rate(sum(row.rejected for row in nulls), len(nulls))
    return found


def exempt(table: Table) -> dict[str, tuple[str, ...]]:
    """Return the faults whose predicted power in a full run is below one half, by compute dtype."""
    return {power.fprop_dtype: power.invisible for power in power_of_run("caches", suite(), table)}


def calibration(results: Results, table: Table) -> list[dict[str, Any]]:
    """Compare predicted and observed power: in the oracle by bins of the predicted one, then in the torch port.

    They agree where the mean prediction lies in the binomial interval (99 %) of what was observed.
    """
    found = []
    for (level, title), (low, high) in itertools.product(POWER_RUNS.items(), itertools.pairwise(BINS)):
        chosen = [
            row
            for row in results.powers
            if row.level == level and (low <= row.predicted < high or high == row.predicted == 1.0)
        ]
        if runs := sum(row.runs for row in chosen):
            predicted = sum(row.predicted * row.runs for row in chosen) / runs
            observed = Rate(sum(row.found for row in chosen), runs)
            found.append(agreement(f"{title}, {low:.0%}–{high:.0%}", predicted, observed))
    known = {power.fprop_dtype: power.probability for power in power_of_run("caches", suite(), table)}
    for dtype in DTYPES:
        trials = [trial for trial in results.port if trial.fprop_dtype == dtype and trial.fault in known[dtype]]
        if trials:
            predicted = sum(known[dtype][trial.fault] for trial in trials) / len(trials)
            observed = Rate(sum(trial.detected for trial in trials), len(trials))
            found.append(agreement(f"whole faults in the torch port, {dtype}", predicted, observed))
    return found


def agreement(what: str, predicted: float, observed: Rate) -> dict[str, Any]:
    """Return a prediction beside what was observed."""
    low, high = clopper_pearson(observed.count, observed.trials, POWER_CONFIDENCE)
    return {
        "what": what,
        "runs": observed.trials,
        "predicted": predicted,
        "observed": observed.count / observed.trials,
        "bounds": [low, high],
        "agrees": low <= predicted <= high,
    }


def suite() -> list[tuple[str, str]]:
    """Return the cases of the golden set with their compute dtypes."""
    return [(case, dtype) for dtype in DTYPES for case in case_ids(golden(), f"*.{dtype}")]


def as_json(results: Results, table: Table) -> dict[str, Any]:
    """Return what is committed as rates.json."""
    return {
        "format": 1,
        "rates": {
            name: {"count": rate.count, "trials": rate.trials, "bounds": [round(x, 4) for x in rate.bounds]}
            for name, rate in rates(results).items()
        },
        "missed": {
            source: {aspect: missed(getattr(results, source), aspect) for aspect in ASPECTS} for source in SOURCES
        },
        "exempt": exempt(table),
        "left_out_taken_for": [asdict(row) for row in results.left_out if row.taken_for],
        "pairs_not_named": [asdict(row) for row in results.pairs if not row.named],
        "floors": [asdict(row) for row in results.floors],
        "power": calibration(results, table),
        "honest": {name: found for name, found in results.honest.items() if name != "extremes"},  # see noise.json
    }


def missed(trials: Sequence[Trial], aspect: str) -> list[str]:
    """Return the faults that were not detected, located or named, with compute dtype and draw."""
    return [f"{x.fault} {x.fprop_dtype} draw {x.draw}" for x in trials if not getattr(x, aspect)]


def failures(results: Results, table: Table, committed: Mapping[str, Any]) -> list[str]:
    """Return what must not be: surviving faults, accepted nulls, lower rates, wrong predictions, false alarms.

    A committed rate that is measured no longer is a lower one.
    """
    spared = exempt(table)
    survivors = sorted(
        {
            f"{x.fault} in {x.fprop_dtype} survives in the {source}"
            for source in SOURCES
            for x in getattr(results, source)
            if not x.detected and x.fault not in spared[x.fprop_dtype]
        }
    )
    accepted = [f"{x.null} passes for {x.operation} in {x.fprop_dtype}" for x in results.nulls if not x.rejected]
    found = rates(results)
    lower = [
        f"{name} fell to {found.get(name, UNMEASURED)}, committed {before['count']} of {before['trials']}"
        for name, before in committed.get("rates", {}).items()
        if fell(found.get(name, UNMEASURED), Rate(before["count"], before["trials"]))
    ]
    alarms = [f"honest run failed: {alarm}" for alarm in results.honest.get("alarms", ())]
    wrong = [
        f"power of {row['what']}: predicted {row['predicted']:.1%}, observed {row['observed']:.1%}"
        for row in calibration(results, table)
        if not row["agrees"]
    ]
    return [*survivors, *accepted, *lower, *wrong, *alarms]


def fell(rate: Rate, before: Rate) -> bool:
    """Return whether a rate is below the one before, or is measured no longer."""
    return rate.count * before.trials < before.count * rate.trials or bool(before.trials and not rate.trials)


def with_honest(results: Results, committed: Mapping[str, Any]) -> Results:
    """Return what a session found, with the committed honest runs where it made none."""
    return replace(results, honest=results.honest or committed.get("honest", {}))


HEAD = f"""# How good is the harness?

Written by `nox -s mutation`. Every rate has its Clopper–Pearson bounds at 95 %. A trial is one fault of the table
(`harness/faults`, {len(FAULTS)} rows) in one compute dtype with one draw of weights and tokens, over the cases meant to
show it.

*Detected*: an operation fails, or (ties between experts alone) a note is made. *Located*: nothing is blamed but the
operations that have the fault. *Named*: every operation blamed is diagnosed with the fault or its class.
"""


def of_other_commands(page: str) -> str:
    """Return what other commands wrote into the page, at its end; raises SystemExit where they have no place in it."""
    _, begin, rest = page.partition(FOREIGN_BEGIN)
    if not begin:
        raise SystemExit(f"{PAGE}: has no line {FOREIGN_BEGIN!r}: add it at the end")
    return f"\n{begin}{rest}"


def as_markdown(results: Results, table: Table) -> str:
    """Return what is committed as RATES.md."""
    data = as_json(results, table)
    parts = [HEAD, *rates_tables(rates(results)), missed_list(data), power_page(data["power"]), floors_page(results)]
    if results.honest:
        parts.append(honest_page(results.honest))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def rates_tables(found: Mapping[str, Rate]) -> list[str]:
    """Return the tables of rates."""
    trials = ["| trials | dtype | detected | located | named |", "|---|---|---|---|---|"]
    for source, title in SOURCES.items():
        for dtype in DTYPES:
            cells = " | ".join(str(found[f"{source}.{dtype}.{aspect}"]) for aspect in ASPECTS)
            trials.append(f"| {title} | {dtype} | {cells} |")
    others = ["| experiment | float32 | bfloat16 |", "|---|---|---|"]
    for name, title in EXPERIMENTS.items():
        others.append(f"| {title} | {' | '.join(str(found[name.format(dtype)]) for dtype in DTYPES)} |")
    return ["\n".join(trials), "\n".join(others)]


def missed_list(data: Mapping[str, Any]) -> str:
    """Return what was not found, where and by what name."""
    lines = ["## What was missed", ""]
    for source in SOURCES:
        lines += [f"* {source}, not {x}: {', '.join(data['missed'][source][x]) or 'none'}" for x in ASPECTS]
    for dtype, names in data["exempt"].items():
        lines.append(f"* exempt in {dtype} (predicted power below {VISIBLE:.0%}): {', '.join(names) or 'none'}")
    lines += [
        f"* {row['fault']} in {row['fprop_dtype']}, left out, is taken for {', '.join(row['taken_for'])}"
        for row in data["left_out_taken_for"]
    ]
    return "\n".join(lines)


def power_page(found: Sequence[Mapping[str, Any]]) -> str:
    """Return how predicted and observed power compare."""
    lines = [
        "## Predicted and observed power",
        "",
        (
            "Doses at, half and a quarter of the smallest one found, of faults but those of an expert, by bins of the "
            "predicted"
        ),
        "power; and the trials above.",
        "",
        "| runs of | number | mean predicted | observed (99 % bounds) | agree |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        low, high = row["bounds"]
        lines.append(
            f"| {row['what']} | {row['runs']} | {row['predicted']:.1%} "
            f"| {row['observed']:.1%} ({low:.1%}–{high:.1%}) | {'yes' if row['agrees'] else 'no'} |"
        )
    return "\n".join(lines)


def floors_page(results: Results) -> str:
    """Return the smallest dose of every fault that is found."""
    lines = [
        "## Dose–response",
        "",
        "The smallest dose that is found, as a power of two of the fault, in the first case that shows it.",
        "",
        "| fault | float32 | bfloat16 |",
        "|---|---|---|",
    ]
    doses = {(x.fault, x.fprop_dtype): f"2^-{x.halvings}" if x.halvings >= 0 else "none" for x in results.floors}
    lines += [
        f"| {fault} | {' | '.join(doses[fault, dtype] for dtype in DTYPES)} |"
        for fault in dict.fromkeys(row.fault for row in results.floors)
    ]
    return "\n".join(lines)


def honest_page(honest: Mapping[str, Any]) -> str:
    """Return how often honest runs were failed."""
    lines = [
        "## Honest runs",
        "",
        f"{len(honest['variants'])} honest ways to compute, fresh weights and tokens. A suite is all runs of one way",
        f"and one draw, judged together. {honest['num_excused_flips']} other choices of experts were excused.",
        "",
        "| | failed | 95 % bounds |",
        "|---|---|---|",
    ]
    counted = [
        ("runs", honest["num_run_alarms"], honest["num_runs"], honest["run_alarms"]),
        ("suites", honest["num_suite_alarms"], honest["num_suites"], honest["suite_alarms"]),
    ]
    counted += [
        (f"runs of {row['preset']} in {row['fprop_dtype']}", row["num_alarms"], row["num_runs"], row["alarms"])
        for row in honest["by_case"]
    ]
    lines += [f"| {what} | {failed} of {total} | {percent(bounds)} |" for what, failed, total, bounds in counted]
    return "\n".join(lines)


def percent(bounds: Sequence[float]) -> str:
    """Return an interval of fractions in words."""
    low, high = bounds
    return f"{low:.2%}–{high:.2%}"


README_BEGIN, README_END = "<!-- rates: written by nox -s mutation -->", "<!-- end of rates -->"


def readme_block(results: Results) -> str:
    """Return the headline rates for the README."""
    found, honest = rates(results), results.honest
    lines = ["| faults patched into the torch port | float32 | bfloat16 |", "|---|---|---|"]
    lines += [
        f"| {aspect} | {' | '.join(str(found[f'port.{dtype}.{aspect}']) for dtype in DTYPES)} |" for aspect in ASPECTS
    ]
    alarms = f"{honest['num_run_alarms']} of {honest['num_runs']} (95 % bounds {percent(honest['run_alarms'])})"
    ways = f"{len(honest['variants'])} ways to compute, fresh weights and tokens for every suite"
    return "\n".join([*lines, "", f"Honest runs failed: {alarms}, {ways}."])
