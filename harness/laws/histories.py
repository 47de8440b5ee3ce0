"""Drawn histories: requests, chunks, steps and cuts in any order on one model, every call held to the oracle.

A state machine of hypothesis draws them, and makes one that fails small. What is always so, whatever came before, is
the law: each call gives what exact arithmetic gives of its own inputs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from grok_conformance.harness.cases.case import Call, CallKind, Case, Preset, steps_before
from grok_conformance.harness.cases.drawn import draw_tokens
from grok_conformance.harness.cases.ladder import BORDERS
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.ways import choose_ways
from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.oracle import ExactWeights
from grok_conformance.harness.laws.draws import PRESET, Draw, config_of, fitted, preset_of
from grok_conformance.harness.running import python_runner
from grok_conformance.harness.running.answers import Answer, read_answer
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import write_job
from grok_conformance.harness.running.registry import Candidate
from grok_conformance.harness.running.runner import run_jobs

NUM_HISTORIES = 20

MIN_CALLS, NUM_CALLS = 8, 12
"""Calls of a history before it is made smaller, new requests among them."""

NUM_SLOTS = 96

MAX_ROWS = 4

MAX_TRIED = 10
"""Histories that are judged to make a failing one smaller."""

NUM_ELEMENTS = 10**8
"""More than all histories of a run compare: the number of tests, which sets λ."""

LENGTHS = st.one_of(st.integers(1, 9), st.sampled_from([border for border in BORDERS if border < NUM_SLOTS // 2]))
"""Real lengths of a row in one call: small ones, and those at borders of blocks."""

ROWS = st.lists(LENGTHS, min_size=MAX_ROWS, max_size=MAX_ROWS)

MODELS = st.builds(
    Draw,
    seed=st.integers(0, 99),
    fprop_dtype=st.sampled_from(["float32", "bfloat16"]),
    scales_dtype=st.sampled_from(["none", "bfloat16"]),
    num_layers=st.integers(1, 2),
    num_kv_heads=st.integers(1, 2),
    heads_per_kv_head=st.integers(1, 2),
    key_size=st.just(4),
    emb_size=st.one_of(st.integers(4, 12), st.sampled_from(BORDERS)),
    num_experts=st.sampled_from([2, 3, 4, 16]),
    num_selected_experts=st.integers(1, 2),
    vocab_size=st.just(23),
    num_tokens=st.just(NUM_SLOTS),
).map(fitted)
"""Drawn models: narrow, but for the width, which may stand at a border of tiles."""

Answering = Callable[[Path, Path], object]
"""Answers a job folder into an answer folder."""


class HistoryError(Exception):
    """Raised by a history in which a call is wrong; the message names it and tells all calls."""


class SearchEnded(BaseException):
    """Raised to end the search for a smaller history that fails."""


@dataclass
class Tally:
    """What was drawn: histories, calls that were right, and what the candidate declined, by its reason.

    `failed` holds what was wrong with each history that failed, by its text; `num_tried` counts those judged since.
    `operation` is the one that failed at first: no permitted way explains it, so that none is searched for again.
    """

    num_histories: int = 0
    num_calls: int = 0
    declined: frozenset[str] = frozenset()
    failed: dict[str, str] = field(default_factory=dict)
    num_tried: int = 0
    operation: str = ""


def check_histories(candidate: Candidate, num_histories: int = NUM_HISTORIES, seed: int = 0) -> tuple[str, Tally]:
    """Draw histories and judge every call; return what is wrong in the smallest that fails, empty if none, and a tally.

    Python candidates answer in this process, programs in one of their own.
    """
    tally = Tally()
    members = {"answering": staticmethod(answering_of(candidate)), "tally": tally}
    machine = hypothesis.seed(seed)(type("DrawnHistory", (History,), members))
    settings = hypothesis.settings(
        max_examples=num_histories, stateful_step_count=NUM_CALLS, deadline=None, database=None, print_blob=False,
        verbosity=hypothesis.Verbosity.quiet, report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    try:
        run_state_machine_as_test(machine, settings=settings, _min_steps=MIN_CALLS)
    except (HistoryError, SearchEnded):
        return min(tally.failed.values(), key=len), tally
    except Flaky as error:
        return f"the same history passes and fails: {error}", tally
    return "", tally


def answering_of(candidate: Candidate) -> Answering:
    """Return how a candidate answers a job."""
    if candidate.serves_many:
        return lambda job, out: python_runner.main(candidate.command[-1], job, out, anew=True)
    return lambda job, out: run_jobs(candidate, [(job, out)], Limits())


class History(RuleBasedStateMachine):
    """Every rule is one call; a new request is a new case of the same job, and so of the same loaded model.

    A subclass says who answers, and counts.
    """

    answering: Answering
    tally: Tally

    def __init__(self) -> None:
        """Begin without a model."""
        super().__init__()
        self.draw = Draw()
        self.requests: list[tuple[Call, ...]] = []

    @initialize(draw=MODELS)
    def load(self, draw: Draw) -> None:
        """Draw the model; tokens follow from its seed."""
        self.draw = draw
        self.random = np.random.default_rng(draw.seed)

    @rule(num_rows=st.integers(1, MAX_ROWS), lengths=ROWS, shared=LENGTHS)
    def request(self, num_rows: int, lengths: list[int], shared: int) -> None:
        """Begin a request of so many rows, whose first tokens are those of the last request's first row."""
        tokens, counts = self.drawn(lengths[:num_rows])
        if self.requests:
            earlier = self.requests[-1][0].tokens[0, :shared]
            tokens[:, : len(earlier)] = earlier[: tokens.shape[1]]
            tokens[np.arange(tokens.shape[1]) >= counts[:, None]] = 0
        self.requests.append((Call("prefill", tokens, counts),))

    @precondition(lambda self: self.requests)
    @rule(lengths=ROWS)
    def extend(self, lengths: list[int]) -> None:
        """Continue every row by a chunk of its own length."""
        self.go_on("extend", lengths)

    @precondition(lambda self: self.requests)
    @rule(num_steps=st.integers(1, 3))
    def decode(self, num_steps: int) -> None:
        """Decode one token a row, several times."""
        for _ in range(num_steps):
            self.go_on("decode", [1] * MAX_ROWS)

    @precondition(lambda self: self.requests)
    @rule(cuts=ROWS, lengths=ROWS)
    def truncate(self, cuts: list[int], lengths: list[int]) -> None:
        """Cut every row back by a number of its own, and continue."""
        self.go_on("truncate", lengths, cuts)

    def go_on(self, kind: CallKind, lengths: list[int], cuts: Sequence[int] = ()) -> None:
        """Add a call to the last request, as far as its cache has room."""
        calls = self.requests[-1]
        steps = steps_before(case_of(self.draw, 0, calls), len(calls))
        cut = np.maximum(steps - cuts[: len(steps)], 1).astype(np.int32) if cuts else None
        room = NUM_SLOTS - int((steps if cut is None else cut).max())
        if room < 1:
            return
        tokens, counts = self.drawn([min(length, room) for length in lengths[: len(steps)]])
        self.requests[-1] = (*calls, Call(kind, tokens, counts, cut))

    def drawn(self, lengths: list[int]) -> tuple[Array, Array]:
        """Draw tokens int32 [b, t], padded beyond lengths int32 [b]."""
        counts = np.array(lengths, np.int32)
        tokens = draw_tokens(self.random, (len(counts), int(counts.max())), config_of(self.draw))
        return np.where(np.arange(tokens.shape[1]) < counts[:, None], tokens, 0).astype(np.int32), counts

    def teardown(self) -> None:
        """Answer and judge all that was asked."""
        if self.requests:
            judge_history(self.draw, self.requests, type(self).answering, self.tally)


def case_of(draw: Draw, number: int, calls: tuple[Call, ...]) -> Case:
    """Return one request of a history as a case."""
    why = "a request of a drawn history"
    return Case(
        id=f"{PRESET}/history/{number}",
        preset=PRESET,
        fprop_dtype=draw.fprop_dtype,
        why=why,
        origin=__name__,
        calls=calls,
    )


def judge_history(draw: Draw, requests: Sequence[tuple[Call, ...]], answering: Answering, tally: Tally) -> None:
    """Have the requests of a history answered by one loaded model; raises HistoryError for a call that is wrong.

    One that failed before fails without being asked again. Raises SearchEnded when enough smaller ones were tried.
    """
    cases = [case_of(draw, number, calls) for number, calls in enumerate(requests)]
    text = "\n".join([f"  model      {draw}", *map(told, cases)])
    if text not in tally.failed:
        tally.num_tried += bool(tally.failed)
        if tally.num_tried > MAX_TRIED:
            raise SearchEnded
        wrong = ask(preset_of(draw), cases, answering, tally)
        if not wrong:
            return
        tally.failed[text] = f"{wrong}\n{text}"
    raise HistoryError(tally.failed[text])  # from one line: hypothesis tells failures apart by it


def ask(preset: Preset, cases: Sequence[Case], answering: Answering, tally: Tally) -> str:
    """Return what is wrong with the answers to the requests of one history, empty if nothing is; then they count."""
    with tempfile.TemporaryDirectory() as scratch:
        job_dir, out_dir = Path(scratch) / "job", Path(scratch) / "out"
        job_dir.mkdir()
        job = write_job(job_dir, "drawn", preset, cases, reruns=())
        answering(job_dir, out_dir)
        wrong = first_wrong(preset, cases, answers := read_answer(out_dir, job), tally)
    if not wrong:
        tally.num_histories += 1
        tally.num_calls += sum(len(case.calls) for case in cases if answers[case.id].status == "answered")
        tally.declined |= {answer.reason for answer in answers.values() if answer.status == "unsupported"}
    return wrong


def first_wrong(preset: Preset, cases: Sequence[Case], answers: Mapping[str, Answer], tally: Tally) -> str:
    """Return what is wrong with the answers to some cases, an empty string if nothing is.

    Each operation is recomputed from the candidate's own inputs, in the ways in which it passes.
    """
    weights = ExactWeights(replace(preset.config, fprop_dtype=cases[0].fprop_dtype), preset.weights)
    exhibits = []
    for case in cases:
        answer = answers[case.id]
        if answer.status == "answered" and answer.info is not None:
            exhibits.append(exhibit_of(preset, case, answer.info, answer.taps, weights))
        elif answer.status != "unsupported":
            return f"{case.id}: {answer.status}: {answer.reason}"
    local = {one.case.id: check_case(one, num_elements=NUM_ELEMENTS) for one in exhibits}
    if not tally.operation and any(not found.passed for each in local.values() for found in each):
        _, local = choose_ways(exhibits, local, NUM_ELEMENTS)
    for case_id, each in local.items():
        for found in each:
            if not found.passed and tally.operation in ("", found.operation):
                tally.operation = found.operation
                problem = found.problem or f"{found.ratio:.3g} times the fence"
                return f"request {case_id.rpartition('/')[2]}, call {found.call}: {found.tap}: {problem}"
    return ""


def told(case: Case) -> str:
    """Return the calls of a request in one line."""
    words = []
    for call in case.calls:
        lengths = " ".join(map(str, call.lengths))
        cut = "" if call.steps is None else f"to {' '.join(map(str, call.steps))}, then "
        words.append(f"{call.kind} {cut}{lengths}")
    return f"  request {case.id.rpartition('/')[2]}  {'; '.join(words)}"
