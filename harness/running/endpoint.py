"""A running server as a candidate: `python -m THIS_MODULE URL MODEL TOP JOB_DIR OUT_DIR`.

The server takes prompts of token ids (`running.completions`): llama.cpp's, vLLM's, SGLang's. It is stateless: of every
position of a prompt it is asked for the next token's log probabilities, by a request for the prompt up to there. The
first time prompts come one after the other, each with the last one's as its prefix, which a prefix cache must bear; the
second time, which is judged too, `NUM_PARALLEL` at once in another order, which batches of unequal lengths must bear.
Where that gives other bits, they come one after the other once more, which tells whether it hangs on concurrency.
The server must hold the weights of the job's preset (`python -m grok_conformance export`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.contract import LOGITS, Array, CandidateInfo, LanguageModelConfig, LogitForm
from grok_conformance.harness.formats.files import FileError, write_json
from grok_conformance.harness.formats.tensors import digest, open_tensors, write_tensors
from grok_conformance.harness.running.completions import Endpoint, EndpointError, ask
from grok_conformance.harness.running.jobs import JobCase, read_config, read_job

NUM_PARALLEL = 8
"""Requests at a time, when a case is asked again."""

FAILED = 2


def main(url: str, model: str, top: int, job_dir: Path, out_dir: Path) -> int:
    """Ask a server all cases of a job, write the answers, and return the exit status."""
    try:
        job = read_job(job_dir)
        config = read_config(job_dir)
    except FileError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    out_dir.mkdir(parents=True, exist_ok=True)
    form = LogitForm(kind="log_probabilities", top=None if top >= config.vocab_size else top)
    info = CandidateInfo(name=model, version=url, taps=(LOGITS,), logits=form)
    write_json(out_dir / "info.json", asdict(info), lasting=False)
    endpoint = Endpoint(url.rstrip("/"), model, min(top, config.vocab_size))
    for case in job.cases:
        folder = out_dir / case.folder
        folder.mkdir(exist_ok=True)
        try:
            result = run_case(endpoint, config, case, open_tensors(job_dir / case.inputs), folder)
        except EndpointError as error:
            result = {"status": "error", "reason": str(error)}
        write_json(folder / "result.json", result, lasting=False)
    return 0


def run_case(
    endpoint: Endpoint, config: LanguageModelConfig, case: JobCase, inputs: Mapping[str, Array], folder: Path
) -> dict[str, Any]:
    """Ask a case in order and then all at once, write both, and return its result.json; raises EndpointError.

    Where the two differ it is asked in order once more.
    """
    if case.preload:
        return {"status": "unsupported", "reason": "a server takes prompts, not caches"}
    began = time.perf_counter()
    first = ask_calls(endpoint, config, case, inputs, num_parallel=1)
    seconds = time.perf_counter() - began
    given = {"taps": first, "parallel": ask_calls(endpoint, config, case, inputs, num_parallel=NUM_PARALLEL)}
    if digests(given["parallel"]) != digests(first):
        given["again"] = ask_calls(endpoint, config, case, inputs, num_parallel=1)
    for name, taps in given.items():
        write_tensors(folder / f"{name}.safetensors", taps, lasting=False)
    reruns = {name: digests(taps) for name, taps in given.items() if name != "taps"}
    return {"status": "answered", "seconds": seconds, "reruns": reruns}


def digests(taps: Mapping[str, Array]) -> dict[str, str]:
    """Return the sha256 of every tap."""
    return {key: digest(x) for key, x in taps.items()}


def ask_calls(
    endpoint: Endpoint, config: LanguageModelConfig, case: JobCase, inputs: Mapping[str, Array], num_parallel: int
) -> dict[str, Array]:
    """Return the log probabilities [b, t, v] of every call by `call0/logits`; NaN where none are shown.

    One request at a time in the order of the positions, or several in an order in which neighbours differ in length.
    """
    answers = {}
    histories: list[list[int]] = []
    for index in range(len(case.calls)):
        tokens, lengths = (np.array(inputs[tap_key(index, name)]) for name in ("tokens", "lengths"))
        histories = histories or [[] for _ in tokens]
        if case.calls[index] == "truncate":
            cuts = inputs[tap_key(index, "steps")]
            histories = [history[:step] for history, step in zip(histories, cuts, strict=True)]
        logits = np.full((*tokens.shape, config.vocab_size), np.nan, np.float32)
        places = [(row, t) for row, length in enumerate(lengths) for t in range(length)]
        if num_parallel > 1:
            places = [places[i] for i in np.random.default_rng(index).permutation(len(places))]
        prompts = [histories[row] + tokens[row, : t + 1].tolist() for row, t in places]
        with ThreadPoolExecutor(num_parallel) as pool:
            for (row, t), shown in zip(places, pool.map(lambda prompt: ask(endpoint, prompt), prompts), strict=True):
                if not all(0 <= token < config.vocab_size for token in shown):
                    raise EndpointError(f"{endpoint.url}: log probabilities of tokens that the model does not have")
                logits[row, t, list(shown)] = list(shown.values())
        answers[tap_key(index, LOGITS)] = logits
        histories = [
            history + tokens[row, :n].tolist() for row, (history, n) in enumerate(zip(histories, lengths, strict=True))
        ]
    return answers


if __name__ == "__main__":
    url, model, top, job_dir, out_dir = sys.argv[1:]
    sys.exit(main(url, model, int(top), Path(job_dir), Path(out_dir)))
