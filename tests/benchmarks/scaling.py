"""How judging, capture and the local check grow, with their exponents: `python -m tests.benchmarks.scaling`.

Tokens, layers, width or taps grow by doublings while the others stay. The candidate is the reference: its taps are what
is judged. Each time is the least of rounds in which all sizes take turns, of the processor and not of the wall, so that
what else the machine does hardly counts. An exponent is the slope of the logarithms over all extents, with its standard
error; that of the last doubling tells where a cost is going that constant parts hide at small sizes. Memory is the peak
of a process of its own that judges ever more cases. `--write` writes the tables into RESULTS.md and the plot beside it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from grok_conformance.candidates import reference
from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.oracle import ExactWeights
from grok_conformance.harness.judging.groups import Group, nothing_expected, run_size
from grok_conformance.harness.judging.submission import Submission, judge_submission
from grok_conformance.harness.running.answers import Answer
from tests.benchmarks.ceilings import machine
from tests.benchmarks.gates import Action, least_seconds
from tests.benchmarks.judging_memory import NUM_CASES, peak_bytes
from tests.benchmarks.results import RESULTS, markdown, record
from tests.benchmarks.scaling_curves import Curve, last_exponent, power_law
from tests.benchmarks.scaling_plot import draw
from tests.benchmarks.scaling_sizes import AXES, BASE, Size, case_of, extent, info_of, preset_of

PLOT = RESULTS.with_name("scaling.svg")
NUM_ROUNDS = 3


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write what is measured into RESULTS.md, and the plot")
    options = parser.parse_args()
    seconds = seconds_by_size([BASE, *(size for sizes in AXES.values() for size in sizes)])
    curves = curves_of(seconds)
    taps = capture_of(BASE)()
    peaks = {num_cases: peak_bytes(num_cases, taps) for num_cases in NUM_CASES}
    text = "\n\n".join((exponents(curves), caption(seconds[BASE]), memory(peaks, sum(x.nbytes for x in taps.values()))))
    record("scaling", text, write=options.write)
    if options.write:
        PLOT.write_text(draw(curves))
    return 0


def capture_of(size: Size) -> Callable[[], dict[str, Array]]:
    """Return the action that runs the loaded reference once with the taps of a size, as an answer has them."""
    model = reference.load(size.config, preset_of(size).weights)

    def capture() -> dict[str, Array]:
        shown = model.prefill(size.prompt, case_of(size).calls[0].lengths, size.taps)
        return {tap_key(0, name): x for name, x in shown.items()}

    return capture


def actions_of(size: Size) -> dict[str, Action]:
    """Return what is measured at a size, by its name; raises SystemExit where the reference does not pass."""
    preset, case, capture = preset_of(size), case_of(size), capture_of(size)
    taps, weights = capture(), ExactWeights(size.config, preset.weights)
    group = Group(preset, "float32", (case,), nothing_expected)
    answer = Answer(status="answered", info=info_of(size), taps=taps)
    submission = Submission((group,), ({case.id: answer},), run_size([group]))
    (judged,) = judge_submission(submission, {})
    if [verdict.status for verdict in judged.verdicts] != ["pass"]:
        raise SystemExit(f"{size}: the reference does not pass: {judged.verdicts[0].reason}")
    return {
        "judging": lambda: judge_submission(submission, {}),
        "capture": capture,
        "local check": lambda: check_case(
            exhibit_of(preset, case, info_of(size), taps, weights), num_elements=submission.num_elements
        ),
    }


def seconds_by_size(sizes: Sequence[Size]) -> dict[Size, dict[str, float]]:
    """Return the least seconds of everything measured at each size, over rounds in which all take turns."""
    actions = {size: actions_of(size) for size in dict.fromkeys(sizes)}
    every = [(size, name, action) for size, each in actions.items() for name, action in each.items()]
    least = least_seconds(*(action for *_, action in every), num_rounds=NUM_ROUNDS, clock=time.process_time)
    found: dict[Size, dict[str, float]] = {size: {} for size in actions}
    for (size, name, _), seconds in zip(every, least, strict=True):
        found[size][name] = seconds
    return found


def curves_of(seconds: Mapping[Size, Mapping[str, float]]) -> list[Curve]:
    """Return a curve for each of what grows and each of what is measured."""
    return [
        Curve(axis, name, tuple(extent(axis, size) for size in sizes), tuple(seconds[size][name] for size in sizes))
        for axis, sizes in AXES.items()
        for name in seconds[sizes[0]]
    ]


def exponents(curves: Sequence[Curve]) -> str:
    """Return the table of exponents."""
    rows = [("what grows", "from", "to", "cost", "seconds", "exponent", "of the last doubling")]
    rows += [
        (
            curve.axis,
            str(curve.extents[0]),
            str(curve.extents[-1]),
            curve.measured,
            f"{curve.seconds[0]:.3f} – {curve.seconds[-1]:.3f}",
            str(power_law(curve)),
            f"{last_exponent(curve):.2f}",
        )
        for curve in curves
    ]
    return markdown(rows)


def memory(peaks: Mapping[int, int], answer_bytes: int) -> str:
    """Return the table of the memory of judging, and what a case more takes, beside the answer to it."""
    rows = [("cases judged", "peak memory MB"), *((str(n), f"{peak / 1e6:.0f}") for n, peak in peaks.items())]
    *_, before, last = sorted(peaks)
    each = (peaks[last] - peaks[before]) / (last - before)
    told = (
        f"From {before} to {last} cases one more takes {each / 1e6:.2f} MB, its verdict and where its answer lies; the "
        f"answer itself, which stays on disk, has {answer_bytes / 1e6:.2f} MB. Up to 64 MB of answers, and as much of "
        "what is made of them in float64, are held for whoever asks next."
    )
    return f"{markdown(rows)}\n\n{told}"


def caption(at_base: Mapping[str, float]) -> str:
    """Return what the figures are of, what the base takes where nothing is hidden, and on what machine."""
    seconds = ", ".join(f"{name} {each:.3f}" for name, each in at_base.items())
    return (
        f"At the base: {BASE.tokens} tokens that fill the cache, {BASE.layers} layer, width {BASE.width}, "
        f"{BASE.config.model.num_experts} experts, float32, all {len(BASE.taps)} taps shown: {seconds} s. Seconds are "
        f"those of the processor, the least of {NUM_ROUNDS} rounds in which all sizes take turns. Where a tap is "
        "hidden, what it passes on is simulated, which costs the same however many there are. "
        f"Machine: {machine()}."
    )


if __name__ == "__main__":
    sys.exit(main())
