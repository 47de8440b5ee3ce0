"""`python -m tests.fault_detection.unknown_faults`: faults that no row of the table knows, and what is said of each.

The faults are those of `tests/fault_detection/unknown_family.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.checks.exhibit import Exhibit, exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.diagnosis.described import described
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.diagnosis.matched_filter import UNEXPLAINED
from grok_conformance.harness.diagnosis.places import inside, place_of, tokens_of
from grok_conformance.harness.diagnosis.shown_tap import ShownTap, shown_taps
from grok_conformance.harness.judging.operations import judge_operations
from tests.fault_detection.unknown_family import Truth, UnknownFault, family, faulty_taps
from tests.harness.honest_port import INFO, NUM_ELEMENTS, exact_weights, golden_case

CASES = (
    "unequal/prefill/padded_batch",
    "unequal/decode/unequal_lengths",
    "unequal/chunked/two_chunks",
    "realistic/prefill/near_ties",
    "square/decode/unequal_lengths",
    "dense/decode/dense_block",
)
"""Prefills, chunks and decode steps of several sizes, with experts and without."""

PAGE = Path(__file__).parent / "UNKNOWN.md"

HEAD = """# Faults that no row of the table knows

Written by `python -m tests.fault_detection.unknown_faults --write`. A fault is an operation, a change of the values
that an honest port gave there, and a place; every other one is tried in bfloat16. Every operation is checked as
published; `--whole` also looks for other ways and for known faults, as a run does. *Located*:
its operation fails and no other. *Named*: what the failing values are said to be is what was done to them. *Placed*:
where they are said to be holds nearly all values that were changed, and nearly no token without one, unless it is
said that not all of it fails. **False**: something is said that is not so. The list is that of
`tests/fault_detection/unknown_family.py`, written together with
the diagnosis: it shows what is told, and is no estimate of how faults from elsewhere fare.

"""

ALLOWED = 0.1
"""Share of the changed values that a place may miss, and of its tokens that may be clean, for it to be right."""


@dataclass(frozen=True)
class Outcome:
    """What the harness said of one fault."""

    fault: UnknownFault
    failing: frozenset[str]
    diagnosis: Diagnosis | None
    place_is_right: bool

    @property
    def located(self) -> bool:
        """Whether its operation fails and no other."""
        return self.failing == {self.fault.operation}

    @property
    def text(self) -> str:
        """What the values are said to resemble."""
        return f"are {self.diagnosis.resembles}" if self.diagnosis is not None and self.diagnosis.resembles else ""

    @property
    def named(self) -> bool:
        """Whether it is told what the values are right for."""
        return bool(self.text) and any(words in self.text for words in self.fault.says)

    @property
    def placed(self) -> bool:
        """Whether it is told where in the data it is, and it is there."""
        return self.diagnosis is not None and bool(self.diagnosis.place) and self.place_is_right

    @property
    def falsely_named(self) -> bool:
        """Whether something is said that is not so: a known fault, another transformation, another place."""
        if self.diagnosis is None:
            return False
        known = bool(self.diagnosis.faults)
        other = bool(self.text) and not self.named
        elsewhere = bool(self.diagnosis.place) and not self.placed
        return known or other or elsewhere


def tried(fault: UnknownFault, seed: int = 1, *, whole: bool = False) -> Outcome:
    """Check every operation of a port with a fault, and describe the faulty one; or judge it `whole`, as a run does."""
    exhibits: list[Exhibit] = []
    truths: dict[str, Truth] = {}
    for name in CASES:
        case_id = f"{name}.{fault.dtype}"
        preset, case = golden_case(case_id)
        taps, truths[case_id] = faulty_taps(case_id, fault, seed)
        exhibits.append(exhibit_of(preset, case, INFO, taps, exact_weights(preset.name, case.fprop_dtype)))
    if whole:
        found = judge_operations(exhibits, NUM_ELEMENTS)
        failing, diagnosis = found.failing, found.diagnoses.get(fault.operation)
        exhibits = list(found.exhibits)
    else:
        checked = [each for one in exhibits for each in check_case(one, num_elements=NUM_ELEMENTS)]
        failing = frozenset(each.operation for each in checked if not each.passed)
        diagnosis = described(None, fault.operation, exhibits, [[] for _ in exhibits])
    return Outcome(fault, failing, diagnosis, is_right(shown_taps(fault.operation, exhibits), truths))


def is_right(taps: Sequence[ShownTap], truths: Mapping[str, Truth]) -> bool:
    """Return whether the place that is told holds nearly all values that were changed, and nearly no other token."""
    place = place_of(taps)
    changed, missed, tokens, clean = 0, 0, 0, 0
    for one in taps:
        truth = truths[one.exhibit.case.id].get(tap_key(one.call, one.tap), np.zeros(one.observed.shape, bool))
        struck, told = truth & one.compared, inside(one, place) & one.compared
        changed += int(struck.sum())
        missed += int((struck & ~told).sum())
        number = np.broadcast_to(tokens_of(one), told.shape)
        tokens += len(np.unique(number[told]))
        clean += len(np.unique(number[told])) - len(np.unique(number[told & struck]))
    return missed <= ALLOWED * changed and (place.partly or clean <= ALLOWED * tokens)


TABLE_HEAD = ("| fault | dtype | located | named | placed | what is said |", "|---|---|---|---|---|---|")


def line_of(one: Outcome) -> str:
    """Return the line of a fault in the table."""
    marks = " | ".join("yes" if x else "–" for x in (one.located, one.named, one.placed))
    found = one.diagnosis or UNEXPLAINED
    said = " or ".join(found.faults) or "; ".join(filter(None, (found.resembles, found.place))) or "–"
    false = " **false**" if one.falsely_named else ""
    return f"| {one.fault.name} | {one.fault.dtype} | {marks} | {said}{false} |"


def rates(outcomes: Sequence[Outcome]) -> list[str]:
    """Return how many are found, located, named or placed, and falsely named."""
    number = len(outcomes)
    counts = {
        "found": sum(bool(one.failing) for one in outcomes),
        "located": sum(one.located for one in outcomes),
        "named or placed": sum(one.named or one.placed for one in outcomes),
        "something said that is not so": sum(one.falsely_named for one in outcomes),
    }
    return [f"* {name}: {count} of {number}, {count / number:.1%}" for name, count in counts.items()]


def main() -> int:
    """Try the family and print the table; fails where something false is said."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_detection.unknown_faults", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("--whole", action="store_true", help="look for other ways and known faults too, as a run does")
    options = parser.parse_args()
    outcomes = []
    print("\n".join(TABLE_HEAD))  # noqa: T201 - a command prints
    for fault in [fault for fault in family() if options.only in fault.name]:
        outcomes.append(tried(fault, options.seed, whole=options.whole))
        print(line_of(outcomes[-1]), flush=True)  # noqa: T201
    print("\n".join(rates(outcomes)))  # noqa: T201
    if options.write:
        PAGE.write_text("\n".join([HEAD + "\n".join(rates(outcomes)), "", *TABLE_HEAD, *map(line_of, outcomes)]) + "\n")
    return 1 if any(one.falsely_named for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
