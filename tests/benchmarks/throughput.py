"""Prefill and decode throughput, side by side: `python -m tests.benchmarks.throughput --conformance FILE`.

Every candidate × compute dtype runs in a process of its own, all take turns in every round, and a candidate is held
against the yardstick (the published algorithm) and the fast port round by round: where the quartiles of that ratio lie
on both sides of 1 the difference is noise. Who is slow in the first round runs the fewest rounds. Only who conforms,
with known deviations at most, has a throughput; the conformance run is identified by the digest of its report.
`--peer FILE` adds an engine that does not, with what it does otherwise. `--pairs` runs each beside the fast port alone,
where all of them would not fit into memory.
`--write` writes all that is measured into RESULTS.md beside this file, and the table of all ports on `bench` into
README.md. Longer than most modules: it is one report, measured and written from top to bottom.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grok_conformance.harness.judging.verdict import PASSING, UNCOUNTED, Status, worst_status
from grok_conformance.harness.report.files import read_report
from grok_conformance.harness.running.in_process import adapter_of
from grok_conformance.harness.running.registry import find_candidate
from tests.benchmarks.ceilings import Ceilings, machine, measure_ceilings
from tests.benchmarks.cost import Cost, call_cost
from tests.benchmarks.peers import deviation_of
from tests.benchmarks.presets import FAST_PORT, LOADS, Load, prompt, write_load
from tests.benchmarks.results import markdown, record, say
from tests.benchmarks.worker import read_load
from tests.written_block import README, write_block

ROOT = Path(__file__).resolve().parents[2]
YARDSTICK = "tests/benchmarks/published_style.py"
BEGIN, END = "<!-- throughput: written by nox -s bench -->", "<!-- end of throughput -->"
DTYPES = ("bfloat16", "float32")
NUM_DIGITS = 12
SLOW = 2.0
"""Who takes more than so many times the yardstick's seconds in the first round stops after FEWEST_ROUNDS."""
FEWEST_ROUNDS = 2
"""The least that have a spread."""

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Threads that wait for their turn must not spin: another candidate is being measured."""


@dataclass(frozen=True)
class Entry:
    """A candidate in one compute dtype, with what its conformance run says of it, and the run's digest.

    `deviations` are what it is known to do otherwise. A `peer` is measured whatever its verdict.
    """

    name: str
    dtype: str
    level: str
    verdict: str
    digest: str
    deviations: tuple[str, ...] = ()
    peer: bool = False

    @property
    def is_measured(self) -> bool:
        """Whether it has a throughput."""
        return self.peer or self.verdict in PASSING

    @property
    def module(self) -> str:
        """What a worker imports."""
        return self.name if self.name.endswith(".py") else find_candidate(self.name).command[-1]


@dataclass
class Times:
    """The seconds of every call of one entry: of loading, of the first prefill and decode (compiling included), and
    of every round; and its peak memory."""

    load: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=lambda: {"prefill": [], "decode": []})
    peak_bytes: int = 0

    def median(self, call: str) -> float:
        """Return the median seconds of a call."""
        return statistics.median(self.rounds[call])

    def compile_seconds(self, call: str) -> float:
        """Return by how much the first call was slower than the median."""
        return max(0.0, self.first[call] - self.median(call))


class Worker:
    """The process of one entry."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        """Start the process and wait until the candidate is loaded."""
        command = [sys.executable, "-m", "tests.benchmarks.worker", entry.module, str(folder), entry.dtype]
        self.process = subprocess.Popen(  # noqa: S603 - running the candidate is the purpose
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | ENVIRONMENT
        )
        self.times = Times()
        self.times.load = self._answer()

    def call(self, kind: str, tokens: list[list[int]], taps: Sequence[str] = ("logits",)) -> float:
        """Make one call and return its seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"call": kind, "tokens": tokens, "taps": list(taps)}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.process.args)}: ended without an answer")  # type: ignore[arg-type] # a list
        answer = json.loads(line)
        self.times.peak_bytes = answer["peak_bytes"]
        return float(answer["seconds"])


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.throughput", description=__doc__)
    parser.add_argument("--conformance", type=Path, required=True, help="the JSON report of the conformance run")
    parser.add_argument("--load", choices=LOADS, default="bench", help="the model that is run (default: bench)")
    parser.add_argument("--candidate", action="append", default=[], help="only these; may be repeated")
    parser.add_argument("--dtype", action="append", default=[], help="only these compute dtypes; may be repeated")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--peer", action="append", default=[], metavar="FILE", help="also this one, which deviates")
    parser.add_argument("--pairs", action="store_true", help="run each beside the fast port alone")
    parser.add_argument("--sweep", action="store_true", help="lengths and batches instead of one prompt")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench", help="where the weights are kept")
    parser.add_argument("--write", action="store_true", help="write what is measured into RESULTS.md and README.md")
    options = parser.parse_args()
    judged = conformance_entries(options.conformance)
    deviating = {peer: deviation_of(adapter_of(peer)) for peer in options.peer}
    judged += [Entry(peer, dtype, "–", "fail", "–", peer=True) for peer in deviating for dtype in DTYPES]
    if unknown := {*options.candidate, *options.dtype} - {word for x in judged for word in (x.name, x.dtype)}:
        parser.error(
            f"{options.conformance}: has no {', '.join(sorted(unknown))}: judge it first, by harness run --json"
        )
    entries = [
        entry
        for entry in judged
        if (entry.peer or entry.name in (options.candidate or [entry.name]))
        and entry.dtype in (options.dtype or [entry.dtype])
    ]
    load = LOADS[options.load]
    folder = write_load(load, options.folder)
    measured = [entry for entry in entries if entry.is_measured]
    if options.sweep:
        text = sweep(measured, load, folder, options.rounds)
        text += f"\n\nMedians of {options.rounds} rounds, and their quartiles. Machine: {machine()}."
        record(f"sweeps of {load.name}", text, write=options.write)
        return 0
    together = companies(measured, FAST_PORT if options.pairs else None)
    runs = [measure(each, load, folder, options.rounds) for each in together]
    times = merged(runs)
    ceilings = measure_ceilings()
    summary, words = table(entries, times, load, fast_beside(runs, FAST_PORT)), caption(times, load, ceilings)
    words = "\n\n".join((words, *(f"`{short(peer)}`: {deviation}." for peer, deviation in deviating.items())))
    text = "\n\n".join((summary, details(times, load, folder, ceilings), words))
    record(f"throughput of {load.name}", text, write=options.write)
    if options.write and options.load == "bench" and entries == judged:
        write_block(README, BEGIN, END, f"{summary}\n\n{words}")
    return 0


def conformance_entries(report: Path) -> list[Entry]:
    """Return every candidate × compute dtype of a JSON report; raises FileError for a file that is none."""
    return [
        Entry(
            candidate["name"],
            dtype,
            candidate["level"],
            verdict_in(dtype, candidate),
            candidate["digest"][:NUM_DIGITS],
            deviations_in(dtype, candidate),
        )
        for candidate in read_report(report)["candidates"]
        for dtype in DTYPES
    ]


def deviations_in(dtype: str, candidate: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the known deviations that a candidate's cases in one compute dtype showed, each once."""
    cases = [case for case in candidate["cases"] if case["case"].endswith(f".{dtype}") and case["status"] in PASSING]
    return tuple(dict.fromkeys(name.partition(" (")[0] for case in cases for name in case["waived"]))


def verdict_in(dtype: str, candidate: Mapping[str, Any]) -> Status:
    """Return the worst status of a candidate's weights, and of its cases and operations in one compute dtype."""
    cases = [
        case["status"]
        for case in candidate["cases"]
        if case["case"].endswith(f".{dtype}") and not (case["waived"] and case["status"] in UNCOUNTED)
    ]
    operations = [row["status"] for row in candidate["operations"] if row["fprop_dtype"] == dtype]
    weights: list[Status] = ["fail"] if candidate["weights"] else []
    return worst_status([*cases, *operations, *weights] if cases else [])


def measure(entries: Sequence[Entry], load: Load, folder: Path, num_rounds: int) -> dict[Entry, Times]:
    """Return the times of entries of one dtype, who take turns in every round, in an order that moves on by one."""
    workers = {entry: Worker(entry, folder) for entry in entries}
    times = {entry: worker.times for entry, worker in workers.items()}
    tokens = prompt(load).tolist()
    single = [row[:1] for row in tokens]
    try:
        for entry, worker in workers.items():
            say(f"{entry.name} {entry.dtype}: loaded in {worker.times.load:.1f} s")
            worker.times.first = {
                kind: worker.call(kind, given) for kind, given in zip(KINDS, (tokens, single), strict=True)
            }
        for number in range(num_rounds):
            order = [worker for entry, worker in workers.items() if takes_part(number, entry, times)]
            shift = number % max(1, len(order))
            for worker in order[shift:] + order[:shift]:
                worker.times.rounds["prefill"].append(worker.call("prefill", tokens))
                steps = [worker.call("decode", single) for _ in range(load.num_decoded)]
                worker.times.rounds["decode"].append(statistics.median(steps))
    finally:
        for worker in workers.values():
            worker.close()
    return times


def companies(entries: Sequence[Entry], fast_port: str | None = None) -> list[list[Entry]]:
    """Return who run together: one compute dtype, which fits into memory, or each one with the fast port alone."""
    by_dtype = [[entry for entry in entries if entry.dtype == dtype] for dtype in sorted({x.dtype for x in entries})]
    if fast_port is None:
        return by_dtype
    fast = {entry.dtype: entry for entry in entries if entry.name == fast_port}
    others = [each for own in by_dtype for each in own if each.name != fast_port]
    return [[fast[each.dtype], each] for each in others if each.dtype in fast]


def merged(runs: Sequence[Mapping[Entry, Times]]) -> dict[Entry, Times]:
    """Return the times of every entry over all runs in which it took part; the loading and first calls of one."""
    found: dict[Entry, Times] = {}
    for entry, times in (item for run in runs for item in run.items()):
        before = found.get(entry)
        rounds = {kind: [*(before.rounds[kind] if before else ()), *times.rounds[kind]] for kind in KINDS}
        found[entry] = replace(before or times, rounds=rounds)
    return found


def fast_beside(runs: Sequence[Mapping[Entry, Times]], fast_port: str) -> dict[Entry, tuple[Times, Times]]:
    """Return by entry its times and those of the fast port in one run, where both took part."""
    return {
        entry: (times, fast)
        for run in runs
        for other, fast in run.items()
        for entry, times in run.items()
        if other.name == fast_port and entry is not other and entry.dtype == other.dtype
    }


KINDS = ("prefill", "decode")


def takes_part(number: int, entry: Entry, times: Mapping[Entry, Times]) -> bool:
    """Return whether an entry runs a round, counted from 0: all run the FEWEST_ROUNDS, who is not slow the others."""
    yardstick = yardstick_of(entry, times)
    if number < FEWEST_ROUNDS or yardstick is None:
        return True
    seconds, yardstick_seconds = (sum(each.rounds[kind][0] for kind in KINDS) for each in (times[entry], yardstick))
    return seconds <= SLOW * yardstick_seconds


def yardstick_of(entry: Entry, times: Mapping[Entry, Times]) -> Times | None:
    """Return the times of the published algorithm in an entry's dtype, if it was measured."""
    return next((each for other, each in times.items() if (other.name, other.dtype) == (YARDSTICK, entry.dtype)), None)


def sweep(entries: Sequence[Entry], load: Load, folder: Path, num_rounds: int) -> str:
    """Return how the cost of a prefill grows with the length and with the batch, one column per entry."""
    row, shapes = prompt(load).tolist()[0], [(1, 16), (1, 64), (1, 256), (2, 64), (4, 64)]
    workers = {entry: Worker(entry, folder) for entry in entries}
    rows = [["batch × length", *(f"{entry.name} {entry.dtype}, tokens/s (run `{entry.digest}`)" for entry in entries)]]
    for b, t in shapes:
        tokens = [row[:t]] * b
        for worker in workers.values():
            worker.call("prefill", tokens)
        runs = [{entry: worker.call("prefill", tokens) for entry, worker in workers.items()} for _ in range(num_rounds)]
        rows.append([f"{b} × {t}", *(speed(b * t, [run[entry] for run in runs]) for entry in entries)])
    for worker in workers.values():
        worker.close()
    return markdown(rows)


def speed(num_tokens: int, seconds: Sequence[float]) -> str:
    """Return the median tokens per second of some rounds, and the quartiles."""
    low, middle, high = (num_tokens / x for x in reversed(quartiles(seconds)))
    return f"{middle:.0f} ({low:.0f}–{high:.0f})"


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the three quartiles of some values, which may be one."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def table(
    entries: Sequence[Entry], times: Mapping[Entry, Times], load: Load, beside: Mapping[Entry, tuple[Times, Times]]
) -> str:
    """Return the table of the README; ratios are those of one run, to the published algorithm and of the fast port.

    `beside` has an entry's times and the fast port's of the run in which they took turns.
    """
    header = ["candidate", "dtype", "level", "verdict", "prefill tokens/s", "decode tokens/s", "× published",
              f"`{FAST_PORT}` ahead", "run"]  # fmt: skip
    rows = [header]
    for entry in sorted(entries, key=lambda entry: (entry.dtype, entry.name)):
        figures = ["–", "–", "–", "–"]
        if entry in times:
            yardstick = yardstick_of(entry, times)
            num_tokens = load.num_rows * load.num_tokens
            figures = [
                f"{num_tokens / times[entry].median('prefill'):.0f}",
                f"{load.num_rows / times[entry].median('decode'):.1f}",
                "–" if yardstick is None else both(yardstick, times[entry]),
                both(*beside[entry]) if entry in beside else "–",
            ]
        name = "published algorithm" if entry.name == YARDSTICK else f"`{short(entry.name)}`"
        verdict = "; ".join(("pass" if entry.deviations else entry.verdict, *entry.deviations))
        rows.append([name, entry.dtype, entry.level, verdict, *figures, f"`{entry.digest}`"])
    return markdown(rows)


def short(name: str) -> str:
    """Return a candidate's name, of a file its stem."""
    return Path(name).stem


def both(slow: Times, fast: Times) -> str:
    """Return how many times faster the second is, in prefill and in decode."""
    return " / ".join(ratio(slow, fast, kind) for kind in KINDS)


def ratio(yardstick: Times, times: Times, kind: str) -> str:
    """Return how many times faster than the yardstick a call is, round by round: the median, or that it is noise."""
    shared = zip(yardstick.rounds[kind], times.rounds[kind], strict=False)  # who is slow runs the first rounds only
    ratios = [slow / fast for slow, fast in shared]
    if len(ratios) < 2 or yardstick is times:
        return f"{statistics.median(ratios):.1f}"
    low, middle, high = quartiles(ratios)
    return "noise" if low <= 1 <= high else f"{middle:.1f}"


def details(times: Mapping[Entry, Times], load: Load, folder: Path, ceilings: Ceilings) -> str:
    """Return everything measured: spread, first call, compiling, memory, and fractions of the machine's ceilings."""
    header = ["candidate", "dtype", "call", "rounds", "median s", "quartiles s", "time to first token s",
              "compile time s", "peak memory GB", "of FLOP/s", "of memory", "weights GB/s", "run"]  # fmt: skip
    rows = [header]
    for entry, each in times.items():
        config, weights = read_load(folder, entry.dtype)
        for kind in KINDS:
            cost = call_cost(config, weights, load.num_rows, load.num_tokens if kind == "prefill" else 1)
            rows.append(
                [
                    short(entry.name),
                    entry.dtype,
                    kind,
                    *spread_of(each, kind),
                    *roofline(cost, each.median(kind), entry.dtype, ceilings),
                    f"`{entry.digest}`",
                ]
            )
    return markdown(rows)


def spread_of(times: Times, kind: str) -> list[str]:
    """Return the columns on time, over how many rounds, and memory."""
    low, _, high = quartiles(times.rounds[kind])
    return [
        str(len(times.rounds[kind])),
        f"{times.median(kind):.4f}",
        f"{low:.4f}–{high:.4f}",
        f"{times.first[kind]:.2f}" if kind == "prefill" else "–",
        f"{times.compile_seconds(kind):.2f}",
        f"{times.peak_bytes / 1e9:.2f}",
    ]


def roofline(cost: Cost, seconds: float, dtype: str, ceilings: Ceilings) -> list[str]:
    """Return the fractions of the ceilings that a call reached with the work that no implementation avoids."""
    return [
        f"{cost.flops / seconds / ceilings.flops_per_second[dtype]:.0%}",
        f"{(cost.weight_bytes + cost.value_bytes) / seconds / ceilings.memory_bytes_per_second:.0%}",
        f"{cost.weight_bytes / seconds / 1e9:.2f}",
    ]


def caption(times: Mapping[Entry, Times], load: Load, ceilings: Ceilings) -> str:
    """Return on what machine and with what model the figures were measured."""
    slow = f", only {FEWEST_ROUNDS} of who takes more than {SLOW:g} times as long as the published algorithm"
    held = "`× published`: prefill / decode against the published algorithm, round by round. "
    slow, held = (slow, held) if any(entry.name == YARDSTICK for entry in times) else ("", "")
    products = ", ".join(f"{value / 1e9:.0f} GFLOP/s in {dtype}" for dtype, value in ceilings.flops_per_second.items())
    model = load.config.model
    memory, disk = ceilings.memory_bytes_per_second / 1e9, ceilings.disk_bytes_per_second / 1e9
    return (
        f"Preset `{load.name}` (d {model.emb_size}, {model.num_layers} layers, {model.num_experts} experts, int8), a "
        f"prompt of {load.num_rows} × {load.num_tokens} tokens, then single tokens; medians of rounds in which all "
        f"take turns{slow}. "
        f"Machine: {machine()}; in the same run: {products}, memory {memory:.1f} GB/s, disk {disk:.1f} GB/s. "
        f"{held}`{FAST_PORT}` ahead: prefill / decode, how many times faster it is, round by round. "
        f"`run`: the digest of the conformance run."
    )


if __name__ == "__main__":
    sys.exit(main())
