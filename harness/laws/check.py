"""Runs the laws on a candidate: every draw and its changed runs as job folders, compared position by position."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import Case, steps_before
from grok_conformance.harness.checks.end_to_end import Honest, honest_run
from grok_conformance.harness.checks.evidence import Evidence, Key, gather
from grok_conformance.harness.contract import Array, split_tap, tap_name
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import ExactWeights
from grok_conformance.harness.laws.draws import Draw, drawn, smaller, smallest_of
from grok_conformance.harness.laws.findings import SEVERITY, SILENT, Finding, Status, compare, held_to_bits
from grok_conformance.harness.laws.laws import DETERMINISM, LAWS, Experiment, Law, unchanged
from grok_conformance.harness.measure.noise import closed_by
from grok_conformance.harness.running.answers import Answer, read_answer
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import write_job
from grok_conformance.harness.running.registry import Candidate
from grok_conformance.harness.running.runner import run_jobs

NUM_DRAWS = 4

MAX_ROUNDS = 8
"""Shrinking ends after so many rounds."""

WHY = "a law of every model, for a drawn one"


Pairs = Sequence[tuple[Path, Path]]
Runs = Callable[[Candidate, Pairs], object]
"""Answers (job, answers) folders with a candidate."""


@dataclass(frozen=True)
class Result:
    """A law over all draws: the worst finding, on the smallest draw that shows it.

    `num_draws` counts the draws that said something: neither unsupported nor inconclusive. `held` is how many of them
    kept the law, `bitwise` how many did bit for bit.
    """

    law: Law
    worst: Finding
    num_draws: int
    held: int
    bitwise: int

    @property
    def passed(self) -> bool:
        """Whether some draw kept the law and none broke it."""
        return self.worst.status == "pass"


def run_in_child(candidate: Candidate, pairs: Pairs) -> None:
    """Answer the jobs in a child process."""
    run_jobs(candidate, pairs, Limits())


def check_properties(
    candidate: Candidate,
    *,
    laws: Sequence[Law] = LAWS,
    draws: Sequence[Draw] = drawn(NUM_DRAWS),
    runs: Runs = run_in_child,
    on_progress: Callable[[str, str], None] = lambda _name, _draw: None,
) -> list[Result]:
    """Check every law on every draw; a law that is broken comes with a small draw that breaks it.

    `on_progress` is called with the candidate's name and every draw that was checked.
    """
    found: list[Finding] = []
    for draw in draws:
        found += check_draws(candidate, laws, [draw], runs)
        on_progress(candidate.name, str(draw))
    results = []
    for law in laws:
        of_law = [finding for finding in found if finding.law == law]
        told = [finding for finding in of_law if finding.status not in SILENT]
        worst = max(told or of_law, key=lambda finding: (SEVERITY.index(finding.status), finding.ratio))
        if worst.status in ("fail", "error"):
            worst = shrink(candidate, worst, runs)
        held = [finding for finding in told if finding.status == "pass"]
        results.append(Result(law, worst, len(told), len(held), sum(finding.bitwise for finding in held)))
    return results


def shrink(candidate: Candidate, finding: Finding, runs: Runs) -> Finding:
    """Return the finding on a smaller draw, as long as one of the next smaller draws still shows it.

    In each round every size is made smaller alone, all in one run of the candidate; then all that may be, together.
    """

    def shows(draws: Sequence[Draw]) -> list[Finding]:
        return [f for f in check_draws(candidate, [finding.law], draws, runs) if f.status == finding.status]

    for _ in range(MAX_ROUNDS):
        alone = shows(list(smaller(finding.draw)))
        if not alone:
            break
        together = shows([smallest_of(finding.draw, [each.draw for each in alone])]) if alone[1:] else []
        finding = (together or alone)[0]
    return finding


def check_draws(candidate: Candidate, laws: Sequence[Law], draws: Sequence[Draw], runs: Runs) -> list[Finding]:
    """Check some laws on some draws, all of them in one run of the candidate.

    Whether a candidate repeats itself is asked too where a law is held to every bit.
    """
    asked, laws = laws, [DETERMINISM, *laws] if any(law.bitwise for law in laws) and DETERMINISM not in laws else laws
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bases = [unchanged(draw) for draw in draws]
        changes = [[law.experiment(draw) for law in laws] for draw in draws]
        flat = [each for base, changed in zip(bases, changes, strict=True) for each in (base, *changed)]
        dtypes = [draw.fprop_dtype for draw in draws for _ in range(len(laws) + 1)]
        shown = [
            gathered(experiment, case, answer)
            for experiment, case, answer in answers_of(candidate, flat, dtypes, folder, runs)
        ]
        found = []
        for i, draw in enumerate(draws):
            base, *changed = shown[i * (len(laws) + 1) : (i + 1) * (len(laws) + 1)]
            found += judge(draw, base, list(zip(laws, changed, strict=True)))
    return [finding for finding in found if finding.law in asked]


@dataclass(frozen=True)
class Shown:
    """What a candidate showed of a run: its evidence, or the status and reason that there is none."""

    experiment: Experiment
    case: Case
    evidence: Evidence | None
    status: Status
    reason: str


def answers_of(
    candidate: Candidate, experiments: Sequence[Experiment], dtypes: Sequence[str], folder: Path, runs: Runs
) -> list[tuple[Experiment, Case, Answer]]:
    """Run every experiment as a job of its own, and return its case and answer."""
    cases, jobs, pairs = [], [], []
    for i, (experiment, dtype) in enumerate(zip(experiments, dtypes, strict=True)):
        name = experiment.preset.name
        case = Case(
            id=f"{name}/law/{i}",
            preset=name,
            fprop_dtype=dtype,
            why=WHY,
            origin=__name__,
            calls=experiment.calls,
            preload=experiment.preload,
        )
        pairs.append((folder / f"job{i}", folder / f"out{i}"))
        pairs[i][0].mkdir()
        jobs.append(write_job(pairs[i][0], "drawn", experiment.preset, [case], reruns=()))
        cases.append(case)
    runs(candidate, pairs)
    answers = [read_answer(out, job)[case.id] for case, job, (_, out) in zip(cases, jobs, pairs, strict=True)]
    return list(zip(experiments, cases, answers, strict=True))


def gathered(experiment: Experiment, case: Case, answer: Answer) -> Shown:
    """Read what was shown; the tensors are copied, since their files will go."""
    if answer.status != "answered" or answer.info is None:
        status: Status = "unsupported" if answer.status == "unsupported" else "error"
        return Shown(experiment, case, None, status, answer.reason or answer.status)
    taps = {name: np.array(array) for name, array in answer.taps.items()}
    evidence = gather(experiment.preset, case, answer.info, taps)
    for (_, tap), problem in evidence.problems.items():
        return Shown(experiment, case, None, "error", f"{tap}: {problem.problem}")
    return Shown(experiment, case, evidence, "pass", "")


def judge(draw: Draw, base: Shown, changed: Sequence[tuple[Law, Shown]]) -> list[Finding]:
    """Compare changed runs of one draw with its unchanged one."""
    if base.evidence is None:
        return [Finding(law, draw, base.status, where=base.reason) for law, _ in changed]
    config = replace(base.experiment.preset.config, fprop_dtype=draw.fprop_dtype)
    weights = ExactWeights(config, base.experiment.preset.weights)
    honest = honest_run(base.experiment.preset, base.case, {}, weights, base.evidence.recorded)
    values, error = by_position(base.case, observed(base.evidence)), by_position(base.case, honest.error)
    decided = decided_positions(base, honest, draw.num_tokens + 1)
    found = []
    for law, shown in changed:
        if shown.evidence is None:
            found.append(Finding(law, draw, shown.status, where=shown.reason))
            continue
        seen = by_position(shown.case, observed(shown.evidence))
        found.append(compare(law, draw, shown.experiment, values, seen, error, decided))
    repeats = all(finding.bitwise for finding in found if finding.law == DETERMINISM)
    return [held_to_bits(finding, repeats=repeats) for finding in found]


def observed(evidence: Evidence) -> dict[Key, Array]:
    """Return what a candidate showed, as it is."""
    return {key: seen.raw for key, seen in evidence.observed.items()}


def by_position(case: Case, taps: Mapping[Key, Array]) -> dict[str, Array]:
    """Put the calls' values of every tap together: [b, position, …], 0 where a row has no such position.

    The caches are those after the last call.
    """
    steps = [steps_before(case, call) for call in range(len(case.calls))]
    ends = [step + call.lengths for step, call in zip(steps, case.calls, strict=True)]
    joined: dict[str, Array] = {}
    for (call, tap), x in taps.items():
        axes = SPECS[split_tap(tap)[1]].axes
        if axes[:2] == ("b", "s"):
            joined[tap] = x[:, : ends[-1].max()]
        elif "s" not in axes:
            whole = joined.setdefault(tap, np.zeros((len(x), ends[-1].max(), *x.shape[2:])))
            for row, (begin, end) in enumerate(zip(steps[call], ends[call], strict=True)):
                whole[row, begin:end] = x[row, : end - begin]
    return joined


def decided_positions(base: Shown, honest: Honest, num_positions: int) -> Array:
    """Return for each row how many positions precede the first whose experts honest rounding may change, int [b]."""
    config = base.experiment.preset.config
    num_decided = np.full(len(base.case.calls[0].tokens), num_positions)
    probabilities, error = by_position(base.case, honest.exact), by_position(base.case, honest.error)
    for layer in range(0 if config.dense else config.model.num_layers):
        tap = tap_name(layer, GROK_1.scores)
        ranked = -np.sort(-probabilities[tap], axis=-1)
        gaps = -np.diff(ranked, axis=-1)[..., : config.model.num_selected_experts]
        close = (gaps <= closed_by(error[tap][..., None])).any(-1)
        num_decided = np.minimum(num_decided, np.where(close.any(-1), close.argmax(-1), num_positions))
    return num_decided
