"""What a server says of the token after a prompt of token ids, by token id.

It is asked through the OpenAI-compatible completions API, as llama.cpp's server and vLLM's have it. One that names
tokens there by their text alone, which several may share, is asked through SGLang's own `/generate` instead, which
gives ids.
"""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_TRIES = 4
TIMEOUT_SECONDS = 120.0
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500

LARGEST = float(np.finfo(np.float32).max)

TOKEN_ID = "token_id:"  # noqa: S105 - a token of a text
"""What vLLM's server puts before an id."""


class EndpointError(Exception):
    """Raised for a server that cannot be reached or answers something else; the message is one line."""


class NamedByTextError(Exception):
    """Raised for an answer that names tokens by their text; the message is one such name."""


@dataclass
class Endpoint:
    """A server, the model asked of it, and how many log probabilities it is asked for.

    One that is `native` is asked through `/generate`, since it has told no ids otherwise.
    """

    url: str
    model: str
    top: int
    native: bool = False


def ask(endpoint: Endpoint, prompt: Sequence[int]) -> dict[int, float]:
    """Return the log probabilities of the token after a prompt, by token id; raises EndpointError."""
    if endpoint.native:
        return generated(endpoint, prompt)
    try:
        return completed(endpoint, prompt)
    except NamedByTextError as named:
        try:
            shown = generated(endpoint, prompt)
        except EndpointError:
            raise EndpointError(
                f"{endpoint.url}: tokens are named by their text ({named}), not by id: "
                "start vLLM with --return-tokens-as-token-ids, or give a server that has SGLang's /generate"
            ) from None
        endpoint.native = True
        return shown


def completed(endpoint: Endpoint, prompt: Sequence[int]) -> dict[int, float]:
    """Ask through the completions API; raises EndpointError, and NamedByTextError where no ids are told."""
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
    return checked(endpoint, shown)


def generated(endpoint: Endpoint, prompt: Sequence[int]) -> dict[int, float]:
    """Ask through SGLang's own API; raises EndpointError."""
    body = {
        "input_ids": list(prompt),
        "sampling_params": {"temperature": 0, "max_new_tokens": 1, "ignore_eos": True},
        "return_logprob": True,
        "logprob_start_len": -1,
        "top_logprobs_num": endpoint.top,
    }
    answer = post(f"{endpoint.url}/generate", body)
    try:
        rows = answer["meta_info"]["output_top_logprobs"][0]
        shown = {int(row[1]): -math.inf if row[0] is None else float(row[0]) for row in rows}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise EndpointError(f"{endpoint.url}: no log probabilities in the answer of /generate ({error!a})") from None
    return checked(endpoint, shown)


def checked(endpoint: Endpoint, shown: dict[int, float]) -> dict[int, float]:
    """Return log probabilities as they are; raises EndpointError for a number that is none."""
    if odd := [value for value in shown.values() if not (abs(value) <= LARGEST or value == -math.inf)]:
        raise EndpointError(f"{endpoint.url}: {odd[0]} is no log probability")
    return shown


def parse(logprobs: Mapping[str, Any]) -> dict[int, float]:
    """Return the log probabilities by token id, from an answer of llama.cpp's server or of vLLM's.

    Raises NamedByTextError for tokens without an id; a text of digits is none.
    """
    if "content" in logprobs:  # llama.cpp: rows of id and logprob
        return {int(row["id"]): float(row["logprob"]) for row in logprobs["content"][0]["top_logprobs"]}
    rows = logprobs["top_logprobs"][0]  # vLLM: {"token_id:17": logprob}
    for name in rows:
        if not (name.startswith(TOKEN_ID) and name.removeprefix(TOKEN_ID).isdecimal()):
            raise NamedByTextError(ascii(name[:40]))
    return {int(name.removeprefix(TOKEN_ID)): float(value) for name, value in rows.items()}


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
