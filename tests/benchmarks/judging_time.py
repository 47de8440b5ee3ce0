"""`python -m tests.benchmarks.judging_time`: seconds of CPU to judge what the torch port answers to the golden cases.

It asks nothing that older versions do not have, so that the same file, copied beside one, tells what judging cost then.
"""

from __future__ import annotations

import sys
import time

import torch

from grok_conformance.candidates import torch_eager
from grok_conformance.harness.judging.groups import read_groups, run_size
from grok_conformance.harness.judging.judge import judge_candidate
from grok_conformance.harness.running.answers import Answer
from tests.conformance.torch_cases import torch_taps
from tests.harness.honest_port import golden

NUM_RUNS = 3


def main() -> None:
    """Judge some times, and print the seconds of each."""
    torch.set_num_threads(1)
    groups = read_groups(golden())
    answers = [
        {
            case.id: Answer(status="answered", info=torch_eager.INFO, taps=torch_taps(group.preset, case))
            for case in group.cases
        }
        for group in groups
    ]
    seconds = []
    for _ in range(NUM_RUNS):
        began = time.process_time()
        judge_candidate(groups, answers, run_size(groups), {})
        seconds.append(time.process_time() - began)
    num_cases = sum(len(group.cases) for group in groups)
    sys.stdout.write(f"{num_cases} cases: {', '.join(f'{each:.2f}' for each in seconds)} s of CPU\n")


if __name__ == "__main__":
    main()
