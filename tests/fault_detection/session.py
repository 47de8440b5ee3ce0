"""The mutation session: every experiment over the whole table, on all cores, with its progress."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from grok_conformance.harness.contract import LEVELS
from grok_conformance.harness.diagnosis.power import Table
from grok_conformance.harness.diagnosis.power_model import power_by_level
from grok_conformance.harness.golden.reading import case_ids
from grok_conformance.harness.judging.groups import read_groups, run_size
from grok_conformance.harness.report.progress import progress_bar
from tests.conformance.impostors import NULLS
from tests.fault_detection import experiments, honest_runs
from tests.fault_detection.experiments import HARMFUL, IN_THE_ORACLE, Floor, LeftOut, Null, Pair, PowerCheck, Trial
from tests.fault_detection.honest.runs import Told, groups_of, tell
from tests.fault_detection.honest.zoo import ZOO
from tests.fault_detection.kept_steps import kept
from tests.fault_detection.trials import DTYPES
from tests.harness.honest_port import golden, golden_case, golden_taps

NUM_ORACLE_DRAWS = 2
NUM_PORT_DRAWS = 2
NUM_HONEST_RUNS = 2000
NUM_PROCESSES = 2

Row = TypeVar("Row")


@dataclass(frozen=True)
class Results:
    """Everything that a session found."""

    oracle: list[Trial] = field(default_factory=list)
    port: list[Trial] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    nulls: list[Null] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    powers: list[PowerCheck] = field(default_factory=list)
    honest: dict[str, Any] = field(default_factory=dict)


def run(
    faults: Sequence[str] = HARMFUL,
    *,
    oracle_draws: int = NUM_ORACLE_DRAWS,
    port_draws: int = NUM_PORT_DRAWS,
    num_honest_runs: int = NUM_HONEST_RUNS,
    with_power: bool = True,
) -> Results:
    """Run every experiment over some faults; impostors and predicted power, which are long, may be left out."""
    both = [(fault, dtype) for fault in faults for dtype in DTYPES]
    mutants = [pair for pair in both if pair[0] in IN_THE_ORACLE]
    doses = [pair for pair in mutants if experiments.scalable(pair[0])]
    pairs = [(*pair, dtype) for pair in experiments.pairs() if set(pair) <= set(faults) for dtype in DTYPES]
    nulls = [(null, dtype) for null in NULLS for dtype in DTYPES if with_power]
    num_steps = len(mutants) * (oracle_draws + 1) + len(both) * port_draws + len(pairs) + len(nulls)
    num_steps += (1 + with_power) * len(doses) + with_power * len(mutants)
    with pool_of(NUM_PROCESSES) as pool, progress_bar(num_steps) as advance:

        def each(experiment: Callable[..., Row], tasks: Iterable[Sequence[object]]) -> Iterator[Row]:
            tasks = list(tasks)
            futures = [pool.submit(kept, experiment, *task) for task in tasks]
            for task, future in zip(tasks, futures, strict=True):
                yield future.result()
                advance(experiment.__name__, " ".join(map(str, task)))

        oracle = each(experiments.in_the_oracle, [(*one, draw) for one in mutants for draw in range(oracle_draws)])
        port = each(experiments.in_the_port, [(*one, draw) for one in both for draw in range(port_draws)])
        floors = list(each(experiments.dose_response, doses))
        powers = each(experiments.power_checks, [(floor,) for floor in floors if with_power])
        blind = each(experiments.blind_power_check, mutants if with_power else [])
        return Results(
            oracle=list(oracle),
            port=list(port),
            left_out=list(each(experiments.left_out, mutants)),
            pairs=list(each(experiments.two_at_once, pairs)),
            nulls=[row for found in each(experiments.nulls, nulls) for row in found],
            floors=floors,
            powers=[*(row for found in powers for row in found), *blind],
            honest=honest(num_honest_runs),
        )


def power_table() -> Table:
    """Work out the power of every fault at every level, in the cases that are meant to show it."""
    cases = case_ids(golden())
    table: dict[str, dict[str, dict[str, float]]] = {level: {} for level in LEVELS}
    with pool_of(NUM_PROCESSES) as pool, progress_bar(len(cases)) as advance:
        for case, levels in zip(cases, pool.map(functools.partial(kept, power_by_level_of), cases), strict=True):
            for level, powers in levels.items():
                for name, power in powers.items():
                    table[level].setdefault(name, {})[case] = round(power, 4)
            advance("power", case)
    return table


def power_by_level_of(case_id: str) -> dict[str, dict[str, float]]:
    """Work out the power of every fault at every level in one golden case, for a run over all of them."""
    preset, case = golden_case(case_id)
    return power_by_level(preset, case, golden_taps(case_id), run_size(read_groups(golden())))


def pool_of(num_processes: int) -> ProcessPoolExecutor:
    """Return processes that start afresh: JAX, where it is loaded, does not outlive a fork."""
    return ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"))


def ways() -> list[Told]:
    """Judge every way of the zoo over the golden cases."""
    tasks = [(name, dtype) for name, way in ZOO.items() for dtype in way.dtypes]
    with pool_of(NUM_PROCESSES) as pool, progress_bar(len(tasks)) as advance:
        futures = [pool.submit(kept, tell_way, *task) for task in tasks]
        found = []
        for task, future in zip(tasks, futures, strict=True):
            found.append(future.result())
            advance("way", " ".join(task))
    return found


def tell_way(name: str, dtype: str) -> Told:
    """Judge one way of the zoo over the golden cases of a compute dtype."""
    return tell(ZOO[name], dtype, groups_of("*", dtype))


def honest(num_runs: int) -> dict[str, Any]:
    """Return the false alarms of honest runs, empty where none were asked for."""
    return asdict(honest_runs.measure(num_runs, parallel=True)) if num_runs else {}
