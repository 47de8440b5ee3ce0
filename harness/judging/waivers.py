"""Known deviations: where exactly a candidate does otherwise than the specification, why, and how long that may last.

They stand in TOML files, `deviations.toml` beside a built-in candidate or the file given by `--waivers`:

    [[deviation]]                     # a tap that fails, and is accepted
    candidate = "my_port"             # its name, or a glob
    case = "*"                        # a case's id, or a glob
    tap = "moe.expert_gate"           # an operation, which means every layer, or one tap: "layers.01.moe.expert_gate"
    fault = "gates_renormalised"      # the row of the fault table that it must be; "" where no row is it
    reason = "…"
    reference = "https://…"
    expires = "2027-06-30"

    [[unsupported]]                   # cases that the candidate declines, saying so; `says` is a glob
    candidate, case, says, reason, reference, expires

With a fault the deviation must be that fault and nothing else: the diagnosis must name it, and the operation must be
within its fences once the oracle has the fault too. Where the operation is not shown, a tap behind it must be within
its fences with all such faults together, and beyond them without any one. Without a fault, whatever the tap shows is
accepted. A waiver that has expired, or whose deviation has gone, fails the candidate.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from grok_conformance.harness.cases.drawn import stored_id
from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.faults import ALL_FAULTS
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.schema import validate
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.running.registry import CANDIDATES_DIR

ONE_LAYER = re.compile(r"^layers\.[0-9]{2,}\.")
"""How the tap of one layer begins."""


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """One accepted deviation (`tap`, and `fault` or ""), or refusal (`says`); `source` is the file it stands in."""

    source: str
    candidate: str
    case: str
    reason: str
    reference: str
    expires: str
    tap: str = ""
    fault: str = ""
    says: str = ""

    @property
    def name(self) -> str:
        """What is waived, in a few words; the same in every report."""
        return f"{self.tap}: {self.fault or 'deviates'} ({self.case})" if self.tap else f"unsupported: {self.says}"

    def covers(self, tap: str) -> bool:
        """Return whether a tap may deviate."""
        return self.tap in (tap, split_tap(tap)[1])

    def accepts(self, reason: str) -> bool:
        """Return whether a candidate may decline a case for a reason."""
        return bool(self.says) and fnmatch.fnmatchcase(reason, self.says)


KINDS = ("deviation", "unsupported")
"""The tables of a file of known deviations, each repeated: `[[deviation]]`."""


def builtin_waivers(folder: Path = CANDIDATES_DIR) -> tuple[Waiver, ...]:
    """Return the known deviations of the built-in candidates."""
    return tuple(waiver for path in sorted(folder.glob("*/deviations.toml")) for waiver in read_waivers(path))


def read_waivers(path: Path) -> tuple[Waiver, ...]:
    """Read a file of known deviations; raises FileError for what it may not say, unknown taps and faults included."""
    try:
        parsed = {**{kind: [] for kind in KINDS}, **tomllib.loads(path.read_text())}
        if other := [name for name in parsed if name not in KINDS]:
            raise FileError(f"{path}: {unknown('table', other[0], KINDS)}")
        validate(parsed, "waivers")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise error if isinstance(error, FileError) else FileError(f"{path}: {error}") from None
    rows = [("deviation", row) for row in parsed["deviation"]] + [("unsupported", row) for row in parsed["unsupported"]]
    for i, (kind, row) in enumerate(rows, start=1):
        if problem := problem_of(row):
            raise FileError(f"{path}: waiver {i} ({kind}): {problem}")
    return tuple(Waiver(source=path.name, **row) for _, row in rows)


def problem_of(row: Mapping[str, Any]) -> str:
    """Return what is wrong with a row of the right form, or an empty string."""
    try:
        date.fromisoformat(row["expires"])
    except ValueError as error:
        return f"expires {row['expires']!a}: {error}"
    if "tap" not in row:
        return ""
    operation = ONE_LAYER.sub("", row["tap"])
    if operation not in SPECS or (operation != row["tap"] and not SPECS[operation].per_layer):
        return unknown("tap or operation", row["tap"], SPECS)
    if operation == GROK_1.choice:
        return "the choice of experts decides all that follows: it cannot be waived"
    return problem_of_fault(row["fault"], operation) if row["fault"] else ""


def problem_of_fault(fault: str, operation: str) -> str:
    """Return why a fault cannot be waived at an operation, or an empty string."""
    if fault not in ALL_FAULTS:
        return unknown("fault", fault, ALL_FAULTS)
    if operation not in ALL_FAULTS[fault].operations:
        return f"fault {fault} shows at {', '.join(ALL_FAULTS[fault].operations) or 'no tap'}, not at {operation}"
    return ""


def check_cases(waivers: Iterable[Waiver], case_ids: Collection[str]) -> None:
    """Raise FileError for a waiver whose glob matches no case of a golden set."""
    for waiver in waivers:
        if not fnmatch.filter(case_ids, waiver.case):
            raise FileError(f"{waiver.source}: {waiver.name}: {unknown('case', waiver.case, case_ids)}")


def waivers_of(waivers: Iterable[Waiver], candidate: str) -> tuple[Waiver, ...]:
    """Return the waivers of a candidate, by its name."""
    return tuple(waiver for waiver in waivers if fnmatch.fnmatchcase(candidate, waiver.candidate))


def in_case(waivers: Iterable[Waiver], case_id: str) -> tuple[Waiver, ...]:
    """Return the waivers that hold in a case; in a drawn one those of the stored case from which it was drawn."""
    return tuple(waiver for waiver in waivers if fnmatch.fnmatchcase(stored_id(case_id), waiver.case))


def outdated(
    waivers: Iterable[Waiver], used: Collection[str], ran: Collection[str], case_ids: Collection[str], today: date
) -> tuple[str, ...]:
    """Return a line for every waiver that has expired, or that nothing needed although all of its cases ran.

    `used` are the names of the waivers that were needed, `ran` the cases that ran out of all `case_ids`.
    """
    lines = []
    for waiver in waivers:
        if date.fromisoformat(waiver.expires) < today:
            lines.append(
                f"{waiver.source}: {waiver.name}: expired {waiver.expires}; look again, then renew or remove it"
            )
        elif waiver.name not in used and set(fnmatch.filter(case_ids, waiver.case)) <= set(ran):
            lines.append(f"{waiver.source}: {waiver.name}: no longer needed; remove it")
    return tuple(lines)
