"""A running server as a candidate: `python -m THIS_MODULE URL MODEL TOP JOB_DIR OUT_DIR`.

The server has an OpenAI-compatible completions API that takes token ids: llama.cpp's, vLLM's. It is stateless: of every
position of a prompt it is asked for the next token's log probabilities, by a request for the prompt up to there. The
first time prompts come one after the other, each with the last one's as its prefix, which a prefix cache must bear; the
second time, which is judged too, `NUM_PARALLEL` at once in another order, which batches of unequal lengths must bear.
The server must hold the weights of the job's preset (`python -m grok_conformance export`).
"""

from __future__ import annotations

import json
import math
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.contract import LOGITS, Array, CandidateInfo, LanguageModelConfig, LogitForm
from grok_conformance.harness.formats.files import FileError, write_json
from grok_conformance.harness.formats.tensors import digest, open_tensors, write_tensors
from grok_conformance.harness.running.jobs import JobCase, read_config, read_job

NUM_PARALLEL = 8
"""Requests at a time, when a case is asked again."""

NUM_TRIES = 4
TIMEOUT_SECONDS = 120.0
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500

LARGEST = float(np.finfo(np.float32).max)

FAILED = 2


class EndpointError(Exception):
    """Raised for a server that cannot be reached or answers something else; the message is one line."""


@dataclass(frozen=True)
class Endpoint:
    """A server, the model asked of it, and how many log probabilities it is asked for."""

    url: str
    model: str
    top: int


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
    write_json(out_dir / "info.json", asdict(info))
    endpoint = Endpoint(url.rstrip("/"), model, min(top, config.vocab_size))
    for case in job.cases:
        folder = out_dir / case.folder
        folder.mkdir(exist_ok=True)
        try:
            result = run_case(endpoint, config, case, open_tensors(job_dir / case.inputs), folder)
        except EndpointError as error:
            result = {"status": "error", "reason": str(error)}
        write_json(folder / "result.json", result)
    return 0


def run_case(
    endpoint: Endpoint, config: LanguageModelConfig, case: JobCase, inputs: Mapping[str, Array], folder: Path
) -> dict[str, Any]:
    """Ask a case in order and then again all at once, write both, and return its result.json; raises EndpointError."""
    if case.preload:
        return {"status": "unsupported", "reason": "a server takes prompts, not caches"}
    began = time.perf_counter()
    write_tensors(folder / "taps.safetensors", ask_calls(endpoint, config, case, inputs, num_parallel=1))
    seconds = time.perf_counter() - began
    again = ask_calls(endpoint, config, case, inputs, num_parallel=NUM_PARALLEL)
    write_tensors(folder / "again.safetensors", again)
    return {"status": "answered", "seconds": seconds, "repeat": {key: digest(x) for key, x in again.items()}}


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


def ask(endpoint: Endpoint, prompt: Sequence[int]) -> dict[int, float]:
    """Return the log probabilities of the token after a prompt, by token id; raises EndpointError."""
    body = {
        "model": endpoint.model,
        "prompt": list(prompt),
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": endpoint.top,
        "return_tokens_as_token_ids": True,  # vLLM's name for them; others pass it over
    }
    answer = post(f"{endpoint.url}/v1/completions", body)
    try:
        shown = parse(answer["choices"][0]["logprobs"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise EndpointError(f"{endpoint.url}: no log probabilities in the answer ({error!a})") from None
    if odd := [value for value in shown.values() if not (abs(value) <= LARGEST or value == -math.inf)]:
        raise EndpointError(f"{endpoint.url}: {odd[0]} is no log probability")
    return shown


def parse(logprobs: Mapping[str, Any]) -> dict[int, float]:
    """Return the log probabilities by token id, from an answer of llama.cpp's server or of vLLM's."""
    if "content" in logprobs:  # llama.cpp: rows of id and logprob
        return {int(row["id"]): float(row["logprob"]) for row in logprobs["content"][0]["top_logprobs"]}
    rows = logprobs["top_logprobs"][0]  # vLLM: {"token_id:17": logprob}
    return {int(name.removeprefix("token_id:")): float(value) for name, value in rows.items()}


def post(url: str, body: Mapping[str, Any]) -> Any:
    """Return the JSON that a server answers, tried again while it is busy; raises EndpointError."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - the user's own server
    for attempt in range(NUM_TRIES):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - likewise
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}: {error.read(200).decode(errors='replace')}"
            if error.code != TOO_MANY_REQUESTS and error.code < SERVER_ERROR:
                break
        except (OSError, RecursionError, ValueError) as error:
            reason = str(error)
        time.sleep(0.2 * 2**attempt)
    raise EndpointError(f"{url}: {' '.join(reason.split())[:300]}")


if __name__ == "__main__":
    url, model, top, job_dir, out_dir = sys.argv[1:]
    sys.exit(main(url, model, int(top), Path(job_dir), Path(out_dir)))
