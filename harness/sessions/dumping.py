"""The tensors of operations written to files, one for each operation and compute dtype, with the way to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.tensors import operation_tensors
from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.tensors import write_tensors
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.judge import Judged, shown_in
from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict, OperationVerdict
from grok_conformance.harness.running.answers import Answer

CaseEvidence = Callable[[str], tuple[Exhibit, Mapping[str, Array]]]
"""What was shown in a case, and its golden taps, by the case's id; it is read when it is asked for."""

SNIPPET = """\
import numpy as np
from safetensors import safe_open  # pip install safetensors

with safe_open({path!r}, "numpy") as file:
    tensors = {{name: file.get_tensor(name) for name in file.keys()}}
for name, x in tensors.items():
    print(name, x.dtype, x.shape)  # input/…, weight/…, observed, exact, expected, error, fence, mask
wrong = tensors["mask"] & ~(abs(tensors["error"]) <= tensors["fence"])  # what is not finite too
print(wrong.sum(), "of", tensors["mask"].sum(), "values are beyond their fences")
print("the first at", *np.argwhere(wrong)[:5].tolist())
"""
"""Ten lines at most that load what was dumped."""


def dump_operations(
    verdict: CandidateVerdict,
    evidence: CaseEvidence,
    num_elements: int,
    folder: Path,
    *,
    passing: bool = False,
) -> list[Path]:
    """Write the worst tap of every operation that fails, or of every one, and return the files.

    Raises FileError for a file that is there already.
    """
    written = []
    for row in rows_to_dump(verdict, passing=passing):
        exhibit, expected = evidence(row.worst_case)
        if (row.worst.call, row.worst.tap) not in exhibit.evidence.observed:
            continue  # what was not shown, or in another shape, is nothing to look at
        path = folder / f"{row.operation}.{row.fprop_dtype}.safetensors"
        if path.exists():
            raise FileError(f"{path}: exists already, and stays as it is: give --dump a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors_of(row, exhibit, expected, num_elements))
        written.append(path)
    return written


def evidence_of(
    groups: Sequence[Group], answers: Sequence[Mapping[str, Answer]], judged: Sequence[Judged]
) -> CaseEvidence:
    """Return what gives the evidence of a case of some groups, with the ways in which it was taken to compute."""

    def evidence(case_id: str) -> tuple[Exhibit, Mapping[str, Array]]:
        for group, answer, found in zip(groups, answers, judged, strict=True):
            for case in group.cases:
                if case.id == case_id:
                    (exhibit,) = shown_in(replace(group, cases=(case,)), answer)
                    return replace(exhibit, ways=found.ways), group.expected(case_id)
        raise KeyError(case_id)

    return evidence


def rows_to_dump(verdict: CandidateVerdict, *, passing: bool) -> Iterator[OperationVerdict]:
    """Yield the operations to write: those that fail, and on request all."""
    yield from (row for row in verdict.operations if passing or row.status not in PASSING)


def tensors_of(
    row: OperationVerdict, exhibit: Exhibit, expected: Mapping[str, Array], num_elements: int
) -> dict[str, Array]:
    """Return the tensors of an operation at its worst tap, and the golden values, which a drawn case has not."""
    key = tap_key(row.worst.call, row.worst.tap)
    golden = {"expected": np.asarray(expected[key])} if key in expected else {}
    return operation_tensors(exhibit, row.worst.call, row.worst.tap, num_elements) | golden


def how_to_load(written: Sequence[Path]) -> str:
    """Return the lines that load the first of some files, and what all of them are; nothing where there is none."""
    if not written:
        return ""
    return "\n".join([*(f"written: {path}" for path in written), "", SNIPPET.format(path=str(written[0]))])
