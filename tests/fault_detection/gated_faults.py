"""`python -m tests.fault_detection.gated_faults`: faults gated on borders of sizes and histories, and which are found.

Each is put into `torch_eager`, which answers the sweep that meets its border, as every run asks it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grok_conformance.candidates import torch_eager
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.judging.groups import sweep_groups
from grok_conformance.harness.running.in_process import adapter_of, answer, load_adapter
from tests.fault_detection.gated_family import TAPS, GatedFault, family, put_in
from tests.harness.honest_port import NUM_ELEMENTS

PAGE = Path(__file__).parent / "GATED.md"

HEAD = """# Faults that hang on a border

Written by `python -m tests.fault_detection.gated_faults --write`. A fault is a border (a size, a count, what came
before) and an operation: where the border is met, the last real token of the last row, or an expert's last token, is
5 % too large. It is put into `torch_eager`, which answers the sweep of every run that meets the border, drawn from one
seed; its first runs are checked operation by operation, as published. *Located*: the operation fails, and no other.
The list is that of `tests/fault_detection/gated_family.py`: it shows which borders the sweeps meet, and is no estimate
of how faults from elsewhere fare.

"""


@dataclass(frozen=True)
class Outcome:
    """What was seen of one fault: the first case in which it fails, and the operations that fail there."""

    fault: GatedFault
    case: str
    failing: frozenset[str]

    @property
    def found(self) -> bool:
        """Whether something fails."""
        return bool(self.failing)

    @property
    def located(self) -> bool:
        """Whether the operation fails and no other."""
        return self.found and self.failing <= TAPS[self.fault.operation]


def tried(fault: GatedFault, seed: int) -> Outcome:
    """Ask the port with a fault what its sweep asks, in order, until a case fails."""
    with put_in(fault):
        adapter = adapter_of(torch_eager)
        for group in sweep_groups(seed, fault.border.sweep):
            config = replace(group.preset.config, fprop_dtype=group.fprop_dtype)
            loaded = load_adapter(adapter, config, group.preset.weights)
            for case in group.cases:
                given = answer(adapter, loaded, group.preset, case, again=False)
                shown = exhibit_of(group.preset, case, torch_eager.INFO, given.taps)
                checked = check_case(shown, num_elements=NUM_ELEMENTS)
                if failing := frozenset(each.operation for each in checked if not each.passed):
                    return Outcome(fault, case.id.partition("~")[0], failing)
    return Outcome(fault, "", frozenset())


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the table: a line for every border, with what was found at its operations."""
    lines = ["| border | met by | operations | found | located |", "|---|---|---|---|---|"]
    for border in dict.fromkeys(one.fault.border.name for one in outcomes):
        own = [one for one in outcomes if one.fault.border.name == border]
        names = ", ".join(one.fault.operation for one in own)
        met = ", ".join(dict.fromkeys(one.case for one in own if one.case)) or "–"
        found, located = (f"{sum(each)} of {len(own)}" for each in ([o.found for o in own], [o.located for o in own]))
        lines.append(f"| {border} | {met} | {names} | {found} | {located} |")
    return lines


def rates(outcomes: Sequence[Outcome]) -> list[str]:
    """Return how many are found and located."""
    number = len(outcomes)
    counts = {"found": sum(one.found for one in outcomes), "located": sum(one.located for one in outcomes)}
    return [f"* {name}: {count} of {number}, {count / number:.1%}" for name, count in counts.items()]


def main() -> int:
    """Try the family and print the table; fails where one is not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_detection.gated_faults", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    outcomes = []
    for fault in [fault for fault in family() if options.only in fault.name]:
        outcomes.append(tried(fault, options.seed))
        if not outcomes[-1].located:
            failing = ", ".join(sorted(outcomes[-1].failing)) or "nothing"
            print(f"{fault.name}: {failing} fails", flush=True)  # noqa: T201 - a command prints
    print("\n".join([*table(outcomes), *rates(outcomes)]))  # noqa: T201
    if options.write:
        PAGE.write_text(HEAD + "\n".join([*rates(outcomes), "", *table(outcomes)]) + "\n")
    return 0 if all(one.found for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
