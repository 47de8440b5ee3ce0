"""A candidate in a process of its own that waits for calls: `python -m tests.benchmarks.worker MODULE FOLDER DTYPE`.

Reads a line of JSON per call, {"call": "prefill" | "decode", "tokens": [[…]], "taps": […]}, and answers with a line:
the seconds of the call and the process's peak memory in bytes. The first answer, without a call, is that of loading.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.harness.contract import LanguageModelConfig, Weights
from grok_conformance.harness.formats.files import read_json
from grok_conformance.harness.formats.tensors import open_tensors
from grok_conformance.harness.running.python_runner import import_candidate


def main() -> None:
    """Load a candidate and answer calls until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever an engine prints is no answer
    module, folder, dtype = sys.argv[1:]

    def answer(action: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = action()
        seconds = time.perf_counter() - began
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answers.write(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes}) + "\n")
        answers.flush()
        return result

    model = answer(lambda: import_candidate(module).load(*read_load(Path(folder), dtype)))
    for line in sys.stdin:
        call = json.loads(line)
        tokens = np.array(call["tokens"], np.int32)
        if call["call"] == "prefill":
            lengths = np.full(len(tokens), tokens.shape[1], np.int32)
            answer(lambda: model.prefill(tokens, lengths, tuple(call["taps"])))  # noqa: B023 - called at once
        else:
            answer(lambda: model.decode(tokens, tuple(call["taps"])))  # noqa: B023 - called at once


def read_load(folder: Path, fprop_dtype: str) -> tuple[LanguageModelConfig, Weights]:
    """Map what `write_load` wrote, for a compute dtype."""
    config = LanguageModelConfig.from_json(read_json(folder / "config.json"))
    return replace(config, fprop_dtype=fprop_dtype), open_tensors(folder / "weights.safetensors")


if __name__ == "__main__":
    main()
