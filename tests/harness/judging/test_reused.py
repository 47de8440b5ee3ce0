"""A verdict of an earlier run says so wherever it is shown, and stays what it was."""

from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.judging.reused import EarlierRun, ReusedVerdict, reused_from
from grok_conformance.harness.judging.told import conformance_digest
from tests.harness.report.verdicts import PASSING, verdict

RUN = EarlierRun("2026-11-28T14:03:59+00:00", 123, "d" * 64)


def test_the_summary_tells_the_run_and_why_it_holds() -> None:
    assert reused_from(RUN, verdict(PASSING)).summary == (
        "pass (layers); reused from 2026-11-28 14:03 UTC with --seed 123: nothing that it depends on has changed"
    )


def test_a_run_elsewhere_is_told_in_utc() -> None:
    assert str(replace(RUN, date="2026-11-28T14:03:59+02:00")) == "2026-11-28 12:03 UTC with --seed 123"


def test_all_else_is_as_it_was_and_stays_so_when_something_is_replaced() -> None:
    found = reused_from(RUN, verdict(PASSING))
    assert (found.status, found.cases, found.operations) == ("pass", *_parts())
    assert isinstance(replace(found, outdated=()), ReusedVerdict)


def _parts() -> tuple[object, object]:
    return verdict(PASSING).cases, verdict(PASSING).operations


def test_its_digest_is_that_of_the_run_that_found_it() -> None:
    assert conformance_digest(reused_from(RUN, verdict(PASSING))) == RUN.digest != conformance_digest(verdict(PASSING))
