"""Whether a known fault explains what was shown of a row better than another way to compute it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.likelihood import DECISIVE, Score, noise_before, score, score_rival
from grok_conformance.harness.checks.moves import with_ways
from grok_conformance.harness.faults import ALL_FAULTS, FAULTS, Fault, mutant
from grok_conformance.harness.graph.oracle import Evaluator
from grok_conformance.harness.graph.row import Operation


def faulty(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> bool:
    """Return whether a known fault of a row, or of a hidden one before it, is decisively likelier than ways of it.

    It must also be likelier than none: what a fault does not change is as likely as ever, and may be likelier than with
    an approximation, which allows more than most ports use.
    """
    by_name = told[0].evidence.graph.by_name
    exactly = not any(plan.adds_an_error(by_name[name].points) for name, plan in ways.plans.items())
    known = rivals(row, told, harmful(ALL_FAULTS)).values()
    tried = [with_ways(one, ways) for one in told]
    limit = min((score(row.name, each) for each in (tried, told)), key=lambda one: one.surprise)
    for each in (told, tried):
        # The noise behind a fault is much as it is without: few are likelier by it, and those are scored by their own.
        noise = [noise_before(row.name, one) for one in each]
        for rival in known:
            promising = score_rival(row.name, each, rival, noise).surprise < limit.surprise
            if promising and likelier(score_rival(row.name, each, rival), limit, exactly=exactly):
                return True
    return False


def likelier(rival: Score, limit: Score, *, exactly: bool) -> bool:
    """Return whether a fault is decisively likelier; roundings that explain all are beaten by what fits better alone.

    That a fault leaves fewer roundings open says nothing where all are as they should be. An approximation, which
    allows more than any rounding, may well lie about one of two faults.
    """
    fits_better = rival.explained and rival.misfit < limit.misfit - DECISIVE
    return rival.beats(limit) and (fits_better or not (exactly and limit.explained))


def explained_by_a_fault(row: Operation, told: Sequence[Exhibit]) -> bool:
    """Return whether a fault of the catalogue leaves nothing of a row to explain that is computed as published else."""
    known = rivals(row, told, harmful(FAULTS)).values()
    return any(score_rival(row.name, told, rival).explained for rival in known)


def harmful(faults: Mapping[str, Fault]) -> dict[str, Fault]:
    """Return the faults that change what a model computes."""
    return {name: fault for name, fault in faults.items() if not fault.harmless}


def rivals(row: Operation, told: Sequence[Exhibit], faults: Mapping[str, Fault]) -> dict[str, Evaluator]:
    """Return the evaluators of those faults that change a row, or a hidden one before it, by name."""
    rows = told[0].needed([row.name])
    return {name: mutant(fault) for name, fault in faults.items() if not rows.isdisjoint(fault.changes)}
