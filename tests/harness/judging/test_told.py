"""What is told of a verdict is the same however it came here, and its digest tells nothing of times."""

from __future__ import annotations

import json
from dataclasses import replace

from grok_conformance.harness.formats.typed import typed
from grok_conformance.harness.judging.told import conformance_digest, told_of, without_honest
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.measure.systematic import Systematic
from tests.harness.report.verdicts import BAD, FAILING, PASSING, verdict

HONEST = Systematic("gain", 1e-9, 1e-9, 0.0, 1.0, 6.0)


def test_a_conformance_digest_leaves_out_times_and_nothing_else() -> None:
    found = verdict(PASSING)
    slower = replace(found, seconds=99.0, judging_seconds=88.0, cases=(replace(PASSING, seconds=77.0),))
    assert conformance_digest(found) == conformance_digest(slower)
    assert conformance_digest(found) != conformance_digest(replace(found, version="2.2"))
    assert conformance_digest(verdict(replace(FAILING, comparisons=(BAD,)))) != conformance_digest(
        verdict(replace(FAILING, comparisons=(replace(BAD, tail=12.6),)))
    )


def test_a_verdict_that_was_written_and_read_has_the_digest_of_the_one_that_was_found() -> None:
    found = verdict(PASSING, FAILING)
    again = typed(CandidateVerdict, json.loads(json.dumps(told_of(found).found)))
    assert conformance_digest(again) == conformance_digest(found)


def test_of_what_single_taps_err_in_common_only_what_is_beyond_its_fence_is_told() -> None:
    beyond = replace(HONEST, name="bias", coefficient=1.0)
    case = replace(FAILING, comparisons=(replace(BAD, systematic=(HONEST, beyond)),))
    assert without_honest(verdict(case)).cases[0].comparisons[0].systematic == (beyond,)
