"""Faults in ports that round elsewhere than published: no plan may absorb one.

`python -m tests.fault_detection.foreign_plans [--share K] [--plan P] [--fault F] [--dtype D] [--write]` tries every
K-th fault in every plan, prints the table, and writes it into RATES.md and rates.json; status 1 if a fault survives or
an honest port fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from grok_conformance.harness.contract import tap_specs
from grok_conformance.harness.faults import FAULTS, mutant
from grok_conformance.harness.formats.files import write_json
from grok_conformance.harness.graph.oracle import evaluate
from grok_conformance.harness.graph.rounding import RoundingPlan
from tests.fault_detection import summary
from tests.fault_detection.experiments import IN_THE_ORACLE
from tests.fault_detection.trials import DTYPES, GOLDEN_DRAW, cases_of, emulated
from tests.harness.honest_port import INFO
from tests.written_block import write_block

NORMS = ("attention.norm", "attention.output_norm", "moe.norm", "moe.output_norm", "final_norm")
EXPERTS = ("moe.expert_activation", "moe.expert_up", "moe.expert_output")
FLASH = ("attention.logits", "attention.weights")

HONEST_CASES = "unequal/prefill/padded_batch"


def chosen(operations: Sequence[str], **choices: str) -> dict[str, RoundingPlan]:
    """Return the same choices at several operations."""
    return dict.fromkeys(operations, RoundingPlan(choices))


ROUNDED_NORMS = chosen(NORMS, normalised="rounded")
FUSED_EXPERTS = {
    **chosen(("moe.expert_hidden",), gelu="rounded", hidden="rounded"),
    **chosen(("moe.output",), terms="rounded"),
}


@dataclass(frozen=True)
class ForeignPlan:
    """How a port rounds, by row of the graph, and which operations it hides."""

    plans: Mapping[str, RoundingPlan]
    hides: tuple[str, ...] = ()


PLANS: Mapping[str, ForeignPlan] = {
    "transformers": ForeignPlan({
        **ROUNDED_NORMS, **FUSED_EXPERTS, **chosen(("moe.expert_output",), result="rounded"),
        **chosen(("moe.output",), terms="rounded", sum="by id"), **chosen(("embedding",), multiplier="kept"),
    }),
    "vllm": ForeignPlan(
        {**ROUNDED_NORMS, **FUSED_EXPERTS, **chosen(("logits",), multiplier="kept", product="kept")},
        ("moe.expert_output",),
    ),
    "sglang": ForeignPlan({**FUSED_EXPERTS, **chosen(("logits",), multiplier="table")}, ("moe.expert_output",)),
    "flash_splitk": ForeignPlan(
        {
            **chosen(("attention.logits",), **{"query · key": "kept"}),
            **chosen(("attention.query", "attention.key", "attention.value"), sums="2 at once"),
        },
        FLASH,
    ),
    "tp8": ForeignPlan(chosen(("attention.output",), sums="8 as ring")),
    "tp4_flat_ring": ForeignPlan(
        {
            **chosen(("attention.output",), sums="4 as flat ring"),
            **chosen(("moe.output",), ranks="4 of rounded", sum="as flat ring"),
        },
        ("moe.expert_output",),
    ),
    "w8a16": ForeignPlan({**chosen(EXPERTS, weights="kept", operands="compute"), **ROUNDED_NORMS}),
}  # fmt: skip
"""Ports as engines are; what is narrow in them means nothing in float32."""


@dataclass(frozen=True)
class ForeignTrial:
    """What became of a fault in a port with a plan of its own; no fault stands for the honest port."""

    fault: str
    plan: str
    fprop_dtype: str
    detected: bool
    named: bool
    operations: tuple[str, ...]


def in_a_foreign_plan(fault: str, plan: str, dtype: str) -> ForeignTrial:
    """Judge the oracle with a fault (or none) that rounds by a plan, case by case until one shows the fault."""
    port = PLANS[plan]
    hidden = {*port.hides} - set(FAULTS[fault].operations if fault else ())  # what is wrong is shown
    shown = tuple(spec.name for spec in tap_specs() if spec.operation not in hidden)
    cases = cases_of(FAULTS[fault], dtype) if fault else (f"{HONEST_CASES}.{dtype}",)
    evaluator = mutant(FAULTS[fault]) if fault else evaluate
    for case in cases:
        judged = emulated(evaluator, (case,), GOLDEN_DRAW, 1, replace(INFO, taps=shown), port.plans)
        if judged.detected:
            break
    named = any(fault in diagnosis.faults for diagnosis in judged.diagnoses.values())
    return ForeignTrial(fault, plan, dtype, judged.detected, named, tuple(sorted(judged.failing | judged.noted)))


def tasks(share: int, dtypes: Sequence[str] = DTYPES) -> list[tuple[str, str, str]]:
    """Return every plan with no fault and with every so manieth fault, staggered from plan to plan."""
    return [
        (fault, plan, dtype)
        for dtype in dtypes
        for i, plan in enumerate(PLANS)
        for fault in ("", *IN_THE_ORACLE[i % share :: share])
    ]


def page(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of a number of trials for RATES.md."""
    lines = [
        "## Faults in ports with foreign plans",
        "",
        "The oracle with a fault, in the cases meant to show it until one does, rounding as an engine does.",
        f"Measured on {len({x['fault'] for x in trials if x['fault']})} faults of the catalogue.",
        "",
        "| plan | dtype | honest port passes | detected | named |",
        "|---|---|---|---|---|",
    ]
    for plan, dtype in dict.fromkeys((x["plan"], x["fprop_dtype"]) for x in trials):
        own = [x for x in trials if (x["plan"], x["fprop_dtype"]) == (plan, dtype)]
        faulty, honest = [x for x in own if x["fault"]], [x for x in own if not x["fault"]]
        passes = "yes" if not any(x["detected"] for x in honest) else "no"
        cells = [str(summary.Rate(sum(x[aspect] for x in faulty), len(faulty))) for aspect in ("detected", "named")]
        lines.append(f"| {plan} | {dtype} | {passes} | {' | '.join(cells)} |")
    missed = [f"{x['fault']} in {x['plan']}, {x['fprop_dtype']}" for x in trials if x["fault"] and not x["detected"]]
    return "\n".join([*lines, "", f"Not detected: {', '.join(missed) or 'none'}."])


def wrong(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what must not be: faults that a plan absorbs, and honest ports that fail."""
    return [
        f"{x['fault'] or 'an honest port'} in the plan {x['plan']} in {x['fprop_dtype']}: "
        + ("absorbed" if x["fault"] else f"fails at {', '.join(x['operations'])}")
        for x in trials
        if x["detected"] != bool(x["fault"])
    ]


def merged(committed: Sequence[dict[str, Any]], trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the committed trials with those made again in their place, and new ones after them."""
    rows = {(x["fault"], x["plan"], x["fprop_dtype"]): x for x in (*committed, *trials)}
    return list(rows.values())


def main(arguments: Sequence[str]) -> int:
    """Run the trials, print and perhaps write their table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_detection.foreign_plans")
    parser.add_argument("--share", type=int, default=1, metavar="K", help="try every K-th fault (default: all)")
    parser.add_argument("--plan", choices=PLANS, nargs="+", default=list(PLANS), help="in these plans (default: all)")
    parser.add_argument("--fault", choices=IN_THE_ORACLE, help="one fault (default: all)")
    parser.add_argument("--dtype", choices=DTYPES, help="of one compute dtype (default: both)")
    parser.add_argument("--write", action="store_true", help="write rates.json and RATES.md")
    options = parser.parse_args(arguments)
    trials = []
    asked = tasks(options.share, (options.dtype,) if options.dtype else DTYPES)
    for task in (task for task in asked if task[1] in options.plan and options.fault in (None, task[0])):
        trials.append(asdict(in_a_foreign_plan(*task)))
        print(trials[-1], flush=True)
    print(page(trials))
    if options.write:
        committed = json.loads(summary.RATES.read_text())
        known = merged(committed.get("foreign_plans", []), trials)
        write_json(summary.RATES, {**committed, "foreign_plans": known})
        write_block(summary.PAGE, summary.FOREIGN_BEGIN, summary.FOREIGN_END, page(known))
    for line in (found := wrong(trials)):
        print(line, file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
