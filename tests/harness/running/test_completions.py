"""What servers answer of the token after a prompt, in each dialect."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import pytest

from grok_conformance.harness.running import completions
from grok_conformance.harness.running.completions import Endpoint, EndpointError, NamedByTextError, ask, parse
from tests.harness.running.loopback import serving


class Texts(BaseHTTPRequestHandler):
    """Answers as SGLang's server: completions name tokens by their text, `/generate` by their id, if it is `native`."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    native: ClassVar[bool] = True
    rows: ClassVar[list[list[Any]]] = [[-0.25, 79, None], [-9.0, 5, None], [None, 6, None]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        answer: dict[str, Any] = {
            "choices": [{"logprobs": {"tokens": ["t79"], "top_logprobs": [{"t79": -0.25, "5": -9}]}}]
        }
        if self.path == "/generate":
            answer = {"meta_info": {"output_top_logprobs": [self.rows]}}
        self.send_response(200 if self.native or self.path != "/generate" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def texts() -> Iterator[str]:
    Texts.asked.clear()
    with serving(Texts) as url:
        yield url


def test_a_server_that_names_tokens_by_text_is_asked_for_their_ids_and_remembered(texts: str) -> None:
    endpoint = Endpoint(texts, "m", 3)
    for _ in range(2):
        assert ask(endpoint, [1, 2]) == {79: -0.25, 5: -9.0, 6: -math.inf}
    assert [path for path, _ in Texts.asked] == ["/v1/completions", "/generate", "/generate"]
    body = Texts.asked[-1][1]
    assert (body["input_ids"], body["top_logprobs_num"], body["return_logprob"]) == ([1, 2], 3, True)
    assert body["sampling_params"]["max_new_tokens"] == 1


def test_where_no_ids_are_to_be_had_the_error_says_what_to_do(texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Texts, "native", False)
    endpoint = Endpoint(texts, "m", 3)
    with pytest.raises(EndpointError, match=r"named by their text \('t79'\).*--return-tokens-as-token-ids") as error:
        ask(endpoint, [1, 2])
    assert "\n" not in str(error.value)
    assert not endpoint.native


def test_an_answer_of_generate_without_log_probabilities_is_an_error(
    texts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Texts, "rows", [["x"]])
    with pytest.raises(EndpointError, match="no log probabilities in the answer of /generate"):
        ask(Endpoint(texts, "m", 3, native=True), [1])


@pytest.mark.parametrize("name", ["5", "t79", " word", "token_id:", "token_id:x"])
def test_a_text_is_no_id_even_if_it_has_digits_alone(name: str) -> None:
    with pytest.raises(NamedByTextError, match=re.escape(ascii(name))):
        parse({"top_logprobs": [{name: -0.5}]})


def test_ids_are_read_from_both_forms_of_completions() -> None:
    assert parse({"top_logprobs": [{"token_id:17": -0.5}]}) == {17: -0.5}
    assert parse({"content": [{"top_logprobs": [{"id": 17, "logprob": -0.5}]}]}) == {17: -0.5}


@pytest.mark.parametrize("value", [1e300, math.inf, math.nan])
def test_what_no_log_probability_can_be_is_an_error(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"choices": [{"logprobs": {"top_logprobs": [{"token_id:1": value, "token_id:2": -math.inf}]}}]}
    monkeypatch.setattr(completions, "post", lambda _url, _body: answer)
    with pytest.raises(EndpointError, match=re.escape(f"served: {value} is no log probability")):
        ask(Endpoint("served", "m", 2), [1])
