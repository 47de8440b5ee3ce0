from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from tests.gpu.child import Ended, run
from tests.gpu.results import Result, Status, exit_status, last_line, page, status_of, verdict_line, write_results
from tests.gpu.session import WRONG_USAGE, environment, main, run_steps
from tests.gpu.steps import BUDGET_SECONDS, NO_GPU, NOT_SHOWN, STEPS, Step, allowance, scaled
from tests.gpu.wheels import MissingError, install_missing, missing_distributions, pip_command

SECONDS_TO_BEGIN = 10
"""Kept for the session's own start and for installing the wheels."""

THREE = (Step("one", "a", 10, "m.one"), Step("two", "b", 20, "m.two"), Step("three", "c", 30, "m.three"))


# The budget


def test_all_steps_fit_into_eight_minutes_and_the_machine_is_looked_at_first() -> None:
    assert BUDGET_SECONDS == 8 * 60
    assert sum(step.seconds for step in STEPS) <= BUDGET_SECONDS - SECONDS_TO_BEGIN
    assert STEPS[0].name == "machine"
    assert len({step.name for step in STEPS}) == len(STEPS)


def test_throughput_comes_after_what_it_measures_and_the_reference_after_what_compiles_for_it() -> None:
    places = {step.name: place for place, step in enumerate(STEPS)}
    assert max(places[name] for name in ("torch_eager", "jax_grouped", "reference")) < places["throughput"]
    assert places["golden"] < places["reference"]


@pytest.mark.parametrize(
    ("shares", "left", "allowed"),
    [
        ((10, 20, 30), 60, 10),  # just what was planned
        ((10, 20, 30), 80, 30),  # what others did not need
        ((30,), 45, 45),  # the last has all that is left
        ((10, 20, 30), 12, 10),  # late: its share all the same, as long as that is left
        ((10, 20, 30), 10, 10),
        ((10, 20, 30), 9.9, None),
    ],
)
def test_a_step_has_its_share_and_what_is_left_over_but_nothing_of_the_later_ones(
    shares: Sequence[float], left: float, allowed: float | None
) -> None:
    assert allowance(shares, left) == allowed


def test_another_budget_has_other_shares() -> None:
    assert [step.seconds for step in scaled(THREE, 2)] == [20, 40, 60]


# The run


class Clock:
    """Time that passes only while a command runs, and commands that end as told, by the module that they name."""

    def __init__(self, budget: float, ends: Mapping[str, Ended]) -> None:
        self.left, self.ends = budget, ends
        self.ran: list[tuple[str, float]] = []

    def run(self, command: Sequence[str], output: Path, seconds: float, _: Mapping[str, str]) -> Ended:
        ended = self.ends.get(command[2], Ended(0, 1.0))
        self.ran.append((command[2], seconds))
        self.left -= ended.seconds
        output.write_text("first\nlast words\n\n")
        return ended


def statuses(clock: Clock, folder: Path, *, cpu: bool = False) -> dict[str, Status]:
    results = run_steps(THREE, folder, {}, lambda: clock.left, cpu=cpu, run_command=clock.run)
    return {result.name: result.status for result in results}


def test_a_step_that_fails_or_is_ended_does_not_keep_later_ones_from_running(tmp_path: Path) -> None:
    clock = Clock(60, {"m.one": Ended(1, 5.0), "m.two": Ended(None, 25.0)})
    assert statuses(clock, tmp_path) == {"one": "failed", "two": "failed", "three": "passed"}
    assert clock.ran == [("m.one", 10), ("m.two", 25), ("m.three", 30)]
    told = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert [each["note"] for each in told] == ["last words", "ended after 25 s, its time; last: last words", ""]


def test_a_step_for_which_no_time_is_left_is_left_out_and_that_is_no_pass(tmp_path: Path) -> None:
    clock = Clock(40, {"m.two": Ended(0, 20.0)})
    results = run_steps(THREE, tmp_path, {}, lambda: clock.left, cpu=True, run_command=clock.run)
    assert [result.status for result in results] == ["passed", "passed", "left out"]
    assert [module for module, _ in clock.ran] == ["m.one", "m.two"]
    assert exit_status(results, cpu=True) == 1
    assert "1 left out" in (tmp_path / "results.md").read_text()


def test_the_results_are_written_after_every_step(tmp_path: Path) -> None:
    def stop(command: Sequence[str], output: Path, seconds: float, environ: Mapping[str, str]) -> Ended:
        if command[2] == "m.two":
            raise KeyboardInterrupt
        return clock.run(command, output, seconds, environ)

    clock = Clock(60, {})
    with pytest.raises(KeyboardInterrupt):
        run_steps(THREE, tmp_path, {}, lambda: clock.left, cpu=False, run_command=stop)
    assert [each["name"] for each in json.loads((tmp_path / "results.json").read_text())["steps"]] == ["one"]


def test_without_a_gpu_no_further_step_runs(tmp_path: Path) -> None:
    clock = Clock(60, {"m.one": Ended(NO_GPU, 1.0)})
    assert list(statuses(clock, tmp_path)) == ["one"]


def test_a_dry_run_is_told_to_every_step_and_figures_of_an_earlier_run_are_forgotten(tmp_path: Path) -> None:
    commands: list[Sequence[str]] = []

    def keep(command: Sequence[str], output: Path, seconds: float, environ: Mapping[str, str]) -> Ended:
        commands.append(command)
        return clock.run(command, output, seconds, environ)

    clock = Clock(60, {})
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "figures.json").write_text('{"speed": "1"}')
    results = run_steps(THREE, tmp_path, {}, lambda: clock.left, cpu=True, run_command=keep)
    assert all(command[-1] == "--cpu" for command in commands)
    assert [result.figures for result in results] == [{}, {}, {}]


def test_steps_share_the_gpu_and_jax_may_not_fall_back_to_the_cpu(tmp_path: Path) -> None:
    there, dry = (environment(None, tmp_path, cpu=cpu) for cpu in (False, True))
    assert there["JAX_PLATFORMS"] == "cuda"  # with a second one after it, JAX does
    assert (dry["JAX_PLATFORMS"], dry["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    assert there["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert str(tmp_path / "site") in environment(tmp_path / "site", tmp_path, cpu=True)["PYTHONPATH"].split(os.pathsep)


# Exit status and what is told


def of(*found: Status) -> list[Result]:
    return [Result(f"step {i}", "something", status) for i, status in enumerate(found)]


@pytest.mark.parametrize(
    ("found", "there", "dry"),
    [
        (("passed", "passed"), 0, 0),
        (("passed", "not shown"), 1, 0),
        (("passed", "failed"), 1, 1),
        (("passed", "left out"), 1, 1),
        ((), 1, 1),
    ],
)
def test_only_a_whole_run_has_status_0(found: tuple[Status, ...], there: int, dry: int) -> None:
    assert (exit_status(of(*found), cpu=False), exit_status(of(*found), cpu=True)) == (there, dry)


@pytest.mark.parametrize(("code", "status"), [(0, "passed"), (1, "failed"), (NOT_SHOWN, "not shown"), (-9, "failed")])
def test_the_end_of_a_process_is_a_status(code: int, status: Status, tmp_path: Path) -> None:
    assert status_of(Ended(code, 1.0), 10, tmp_path / "output.txt")[0] == status


def test_the_last_line_of_a_step_is_told_and_cut(tmp_path: Path) -> None:
    assert last_line(tmp_path / "output.txt") == "no output"
    (tmp_path / "output.txt").write_text("first\n" + "x" * 500 + "\n \n")
    assert last_line(tmp_path / "output.txt") == "x" * 199 + "…"


def test_what_is_left_out_is_not_counted_as_passed_and_a_dry_run_says_what_it_is() -> None:
    assert verdict_line(of("passed", "left out", "passed"), cpu=False) == "2 passed, 1 left out"
    assert "shows nothing of a GPU" in verdict_line(of("passed"), cpu=True)


def test_the_page_has_the_machine_a_row_per_step_and_the_figures(tmp_path: Path) -> None:
    machine = Result("machine", "what it is", "passed", 1, 10, {"gpu": "NVIDIA X"})
    speed = Result("speed", "how fast", "failed", 2, 10, {"ratio": "1.5", "table": "| a | b |"}, "a | b")
    write_results(tmp_path, [machine, speed], cpu=False)
    text = (tmp_path / "results.md").read_text()
    assert text.startswith("# GPU session on NVIDIA X\n")
    assert "| speed | how fast | failed | 2.0 | 10 | a \\| b |\n" in text
    assert "* ratio: 1.5\n\n| a | b |\n" in text
    assert page([machine], machine.figures, cpu=True).startswith("# GPU session on the CPU, as a dry run")


# The child process


def runs(pid: int) -> bool:
    """Whether a process lives; one that was killed may wait for its parent to take note."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_command_is_ended_when_its_time_is_over_with_what_it_started(tmp_path: Path) -> None:
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"
    began = time.monotonic()
    ended = run([sys.executable, "-c", code], tmp_path / "output.txt", 3, os.environ)
    assert ended.exit_code is None
    assert time.monotonic() - began < 30
    pid, began = int((tmp_path / "output.txt").read_text()), time.monotonic()
    while runs(pid):  # the kernel takes a moment
        assert time.monotonic() - began < 10
        time.sleep(0.05)


def test_the_exit_status_and_both_outputs_of_a_command_are_kept(tmp_path: Path) -> None:
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    assert run([sys.executable, "-c", code], tmp_path / "output.txt", 60, os.environ).exit_code == 3
    assert (tmp_path / "output.txt").read_text() == "out\nerr\n"


# Carried wheels


def test_what_is_missing_is_known_by_its_module() -> None:
    assert missing_distributions({"json": "json", "no_such_module": "no-such"}) == ["no-such"]
    assert install_missing(None, Path("site"), {"json": "json"}) is None


def test_without_wheels_a_missing_package_is_wrong_usage_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"^no-such: not installed here: give --wheels DIR with a wheel of each$"):
        install_missing(None, tmp_path, {"no_such_module": "no-such"})
    with pytest.raises(MissingError, match=r"nowhere: no folder: give --wheels"):
        install_missing(tmp_path / "nowhere", tmp_path, {"no_such_module": "no-such"})
    with pytest.raises(MissingError, match=r"carry a wheel of each of no-such$"):
        install_missing(tmp_path, tmp_path / "site", {"no_such_module": "no-such"})


def test_wheels_are_installed_without_a_network() -> None:
    command = pip_command(Path("wheels"), Path("site"), ["jmp"])
    assert {"--no-index", "--no-deps"} <= set(command)
    assert command[-3:] == ["--target", "site", "jmp"]


def test_an_unknown_step_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--cpu", "--step", "nothing"])
    assert refused.value.code == WRONG_USAGE
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
