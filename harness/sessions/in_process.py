"""A candidate judged in this process: what `grok_conformance.judge` does, and `run --in-process`."""

from __future__ import annotations

import io
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.checks.loaded_weights import WeightProblem, check_weights
from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.tap_map import TapSource
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.groups import Group, any_seed, run_size
from grok_conformance.harness.judging.narrowing import Narrow, judge_as_asked, narrow_to, narrowed
from grok_conformance.harness.judging.selection import EVERY, Patterns, asked_groups, each_once
from grok_conformance.harness.judging.submission import Submission, judge_submission
from grok_conformance.harness.judging.summary import summarise
from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict, OperationVerdict
from grok_conformance.harness.judging.waivers import Waiver, waivers_of
from grok_conformance.harness.measure.words import number_of
from grok_conformance.harness.report import terminal
from grok_conformance.harness.running.answers import Answer
from grok_conformance.harness.running.in_process import Adapter, Loaded, adapter_of, answer, answer_later, load_adapter
from grok_conformance.harness.running.python_runner import shown_weights
from grok_conformance.harness.sessions.dumping import CaseEvidence, dump_operations, evidence_of, tensors_of

Progress = Callable[[str, str], None]
"""Called with a candidate's name and the id of every case it has answered."""


@dataclass(frozen=True)
class Report:
    """What was found of a candidate, and the tensors behind it; a notebook shows it, `print` gives it as text."""

    verdict: CandidateVerdict
    evidence: CaseEvidence = field(repr=False)
    num_elements: int = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether all that was looked at passed."""
        return self.verdict.passed

    @property
    def failures(self) -> tuple[OperationVerdict, ...]:
        """The operations that do not pass, in the order of the forward pass, once per compute dtype."""
        return tuple(row for row in self.verdict.operations if row.status not in PASSING)

    def tensors(self, operation: str, dtype: str = "") -> dict[str, Array]:
        """Return what an operation read and gave at its worst tap, as `operation_tensors` does, and `expected`.

        Raises KeyError for an operation that was not looked at.
        """
        for row in self.verdict.operations:
            if row.operation == operation and dtype in ("", row.fprop_dtype):
                return tensors_of(row, *self.evidence(row.worst_case), self.num_elements)
        raise KeyError(
            f"{operation}: not looked at; there are {', '.join(r.operation for r in self.verdict.operations)}"
        )

    def dump(self, folder: str | Path, *, passing: bool = False) -> list[Path]:
        """Write these tensors of every failing operation, or of every one, as safetensors; return the files."""
        return dump_operations(self.verdict, self.evidence, self.num_elements, Path(folder), passing=passing)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with a row per case, call and tap; raises ImportError without pandas."""
        try:
            import pandas as pd  # type: ignore[import-untyped]  # noqa: PLC0415 - no dependency: only who asks for a frame has it
        except ImportError:
            raise ImportError("to_frame() needs pandas: pip install pandas") from None
        rows = [
            {
                "case": case.case,
                "call": each.call,
                "layer": each.layer,
                "operation": each.operation,
                "status": "pass" if each.passed else "fail",
                "ratio": each.ratio,
                "observed": each.observed,
                "exact": each.exact,
                "expected": each.expected,
                "allowed": each.allowed,
                "index": each.index,
                "problem": each.problem,
            }
            for case in self.verdict.cases
            for each in case.comparisons
        ]
        return pd.DataFrame(rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show it as the command line does."""
        del options
        terminal.show(console, [self.verdict])
        return ()

    def __str__(self) -> str:
        """Return it as text."""
        console = Console(file=io.StringIO(), width=terminal.PIPE_WIDTH, record=True, markup=False)
        terminal.show(console, [self.verdict])
        return console.export_text()

    def _repr_html_(self) -> str:
        """Return it as a notebook shows it."""
        console = Console(file=io.StringIO(), width=terminal.PIPE_WIDTH, record=True, markup=False)
        terminal.show(console, [self.verdict])
        return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.3">{code}</pre>')


def judge(
    candidate: Any,
    cases: Patterns = EVERY,
    *,
    taps: Sequence[TapSource] = (),
    operations: str | Sequence[str] = (),
    layers: int | Sequence[int] = (),
    dtype: str = "*",
    golden: Path = GOLDEN,
    exit_first: bool = False,
) -> Report:
    """Judge a candidate over the cases that a glob pattern matches, or any of several, in this process.

    `candidate` is a name or a file as the command line takes it, a module (or another object) with INFO and load, or a
    function `load(config, weights)` that returns a model, a torch module or a function of tokens; then `taps` is the
    tap map of what it gives, in which `output` stands for what the module returns. `operations` (names or globs),
    `layers` and `dtype` narrow the check, which is then local to them. With all cases come those that are drawn, and
    the id of one in a report asks for it again. `exit_first` stops at the first case that fails. What the candidate
    raises is raised. Raises FileError, TypeError and ValueError for what cannot be asked.
    """
    adapter = adapter_of(candidate, taps)
    names = (operations,) if isinstance(operations, str) else operations
    whole = EVERY in each_once(cases) and not names and layers == ()
    groups = asked_groups(open_golden(golden), cases, dtype, seed=any_seed(), drawing=whole)
    narrow = narrow_to(names, (layers,) if isinstance(layers, int) else layers, groups)
    told = judging_told(sum(len(group.cases) for group in groups))
    return judge_adapter(adapter, groups, narrow, exit_first=exit_first, on_progress=told)


def judging_told(num_cases: int) -> Progress:
    """Return what tells on standard error that all cases are answered: judging them may take longer than that."""
    began, done = time.monotonic(), itertools.count(1)

    def advance(name: str, _case: str) -> None:
        if next(done) == num_cases:
            told = f"{number_of(num_cases, 'cases')} answered in {time.monotonic() - began:.1f} s"
            sys.stderr.write(f"{name}: {told}, now to be judged\n")

    return advance


def judge_adapter(
    adapter: Adapter,
    groups: Sequence[Group],
    narrow: Narrow,
    *,
    waivers: Sequence[Waiver] = (),
    exit_first: bool = False,
    on_progress: Progress = lambda _name, _case: None,
) -> Report:
    """Judge an adapter over groups, narrowed or whole; a whole one makes every further run of a case."""
    began, size = time.monotonic(), run_size(groups)
    known = waivers_of(waivers, adapter.name)
    weights: list[WeightProblem] = []
    done: list[tuple[Group, dict[str, Answer]]] = []
    for group, case, given in answers_of(adapter, groups, narrow, weights):
        if not done or done[-1][0] is not group:
            done.append((group, {}))
        is_first = case.id not in done[-1][1]
        done[-1][1][case.id] = given
        if is_first:
            on_progress(adapter.name, case.id)
        if is_first and exit_first:
            (first,) = judge_as_asked([replace(group, cases=(case,))], [{case.id: given}], size, {}, narrow, known)
            if any(verdict.status not in PASSING for verdict in first.verdicts):
                break
    seen = [replace(g, cases=tuple(c for c in g.cases if c.id in answers)) for g, answers in done]
    answers = [each for _, each in done]
    judged = judge_submission(Submission(tuple(seen), tuple(answers), size, narrow, known), {})
    verdict = summarise(adapter.name, seen, answers, judged, time.monotonic() - began, tuple(weights), known)
    verdict = narrowed(verdict, narrow)
    return Report(verdict, evidence_of(seen, answers, judged), size)


def answers_of(
    adapter: Adapter, groups: Sequence[Group], narrow: Narrow, weights: list[WeightProblem]
) -> Iterator[tuple[Group, Case, Answer]]:
    """Yield the answers of all groups as they are given; what is wrong with the weights is added to `weights`."""
    for group in groups:
        config = replace(group.preset.config, fprop_dtype=group.fprop_dtype)
        loaded: Loaded = load_adapter(adapter, config, group.preset.weights)
        if not narrow and not loaded.refusal:
            shown = shown_weights(adapter.module, loaded.model, group.preset.weights)
            weights += check_weights(group.preset.name, config, group.preset.weights, shown)
        answers = {}
        for case in group.cases:
            answers[case.id] = answer(adapter, loaded, group.preset, case, again=not narrow)
            yield group, case, answers[case.id]
        for case in reversed(() if narrow else group.cases):
            yield group, case, answer_later(loaded, group.preset, case, answers[case.id])
