"""A running server judged over HTTP: llama.cpp's own, on loopback, and answers in the dialect of vLLM's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from grok_conformance.harness.cases.case import Call, Preset
from grok_conformance.harness.cases.probes import make_probe, probe_cases
from grok_conformance.harness.cases.sweeps import sweeps
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import CandidateInfo, LogitForm
from grok_conformance.harness.faults import FAULTS, mutant
from grok_conformance.harness.formats.tensors import open_tensors
from grok_conformance.harness.graph.oracle import Evaluator, evaluate
from grok_conformance.harness.running import completions, endpoint
from grok_conformance.harness.running.jobs import write_job
from grok_conformance.harness.sessions.export import export
from tests.fault_detection.trials import both
from tests.harness.running.loopback import serving

PRESET = make_probe("probe_moe")
(CASE,) = probe_cases("probe_moe/prefill/rows.float32")


class Stub(BaseHTTPRequestHandler):
    """Answers in vLLM's form that token n + 1 follows token n; the first request of each prompt finds it busy.

    One that `mixes_up` requests answers wrongly while it has several at once.
    """

    busy: ClassVar[set[tuple[int, ...]]] = set()
    at_once: ClassVar[list[int]] = [0]
    mixes_up: ClassVar[bool] = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = tuple(body["prompt"])
        busy = prompt not in self.busy
        self.busy.add(prompt)
        self.at_once[0] += 1
        time.sleep(0.1 * self.mixes_up)
        wrong = self.mixes_up and self.at_once[0] > 1
        self.at_once[0] -= 1
        rows = {f"token_id:{(prompt[-1] + 1 + wrong) % 256}": -0.25, "token_id:0": -9.0}
        answer: dict[str, Any] = {"choices": [{"logprobs": {"top_logprobs": [rows]}}]}
        self.send_response(503 if busy else 400 if body["model"] == "other" else 200)
        self.end_headers()
        self.wfile.write(json.dumps(answer if not busy else {"error": "busy"}).encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def stub() -> Iterator[str]:
    Stub.busy.clear()
    with serving(Stub) as url:
        yield url


def answered(
    url: str, model: str, top: int, tmp_path: Path, case: Any = CASE, preset: Preset = PRESET
) -> tuple[int, Path]:
    write_job(tmp_path / "job", "probes", preset, [case])
    status = endpoint.main(url, model, top, tmp_path / "job", tmp_path / "out")
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    return status, folder


def two_calls() -> Any:
    rows = np.array([[5, 6, 7], [8, 9, 0]], np.int32)
    step = np.array([[8], [10]], np.int32)
    calls = (Call("prefill", rows, np.array([3, 2], np.int32)), Call("decode", step, np.ones(2, np.int32)))
    return replace(CASE, calls=calls)


def test_every_position_is_asked_by_the_prompt_up_to_it_and_busy_servers_are_asked_again(
    stub: str, tmp_path: Path
) -> None:
    status, folder = answered(stub, "served", 2, tmp_path, two_calls())
    assert status == 0
    assert json.loads((folder / "result.json").read_text())["status"] == "answered"
    taps = open_tensors(folder / "taps.safetensors")
    most = np.array(taps["call0/logits"])
    assert np.nanargmax(most[0], -1).tolist() == [6, 7, 8]
    assert np.nanargmax(most[1, :2], -1).tolist() == [9, 10]
    assert np.isnan(most[1, 2]).all()  # padding
    assert np.nanargmax(np.array(taps["call1/logits"]), -1).tolist() == [[9], [11]]
    assert (5, 6, 7, 8) in Stub.busy
    assert (8, 9, 10) in Stub.busy
    info = json.loads((tmp_path / "out" / "info.json").read_text())
    assert info["logits"] == {"kind": "log_probabilities", "positions": "all", "top": 2}


def test_a_server_that_mixes_up_requests_in_parallel_fails_the_second_time(
    stub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stub, "mixes_up", True)
    _, folder = answered(stub, "served", 2, tmp_path, two_calls())
    first, again = (open_tensors(folder / f"{name}.safetensors") for name in ("taps", "parallel"))
    assert np.nanargmax(np.array(first["call0/logits"])[0], -1).tolist() == [6, 7, 8]
    assert np.nanargmax(np.array(again["call0/logits"])[0], -1).tolist() != [6, 7, 8]
    alone = open_tensors(folder / "again.safetensors")
    assert all(np.array_equal(alone[key], first[key], equal_nan=True) for key in first)
    reruns = json.loads((folder / "result.json").read_text())["reruns"]
    assert set(reruns) == {"parallel", "again"}


class Prefixed(Stub):
    """Answers that the sum of all tokens follows, of which it keeps what whole blocks of 16 add up to.

    It is right if it finds them by all tokens up to their end, and wrong by those of the `block_alone`.
    """

    kept: ClassVar[dict[tuple[int, ...], int]] = {}
    block_alone: ClassVar[bool] = False

    def do_POST(self) -> None:
        prompt = tuple(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"])
        whole = len(prompt) - len(prompt) % 16
        total = 0
        for end in range(16, whole + 1, 16):
            key = (end, *prompt[end - 16 : end]) if self.block_alone else prompt[:end]
            total = self.kept.setdefault(key, total + sum(prompt[end - 16 : end]))
        rows = {f"token_id:{(total + sum(prompt[whole:])) % NUM_WORDS}": -0.25}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"logprobs": {"top_logprobs": [rows]}}]}).encode())


NUM_WORDS = 97


@pytest.mark.parametrize("block_alone", [False, True], ids=["right", "wrong"])
def test_a_prefix_cache_that_forgets_what_comes_before_a_block_is_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, block_alone: bool
) -> None:
    monkeypatch.setattr(Prefixed, "block_alone", block_alone)
    Prefixed.kept.clear()
    ((preset, cases),) = sweeps(1, "sweep_prefixes/sweep/shared*", "float32")
    wrong = []
    with serving(Prefixed) as url:
        for case in cases:
            _, folder = answered(url, "served", 1, tmp_path / case.id, case, preset)
            call, length = case.calls[0], case.calls[0].lengths[0]
            told = np.nanargmax(np.array(open_tensors(folder / "taps.safetensors")["call0/logits"])[0, :length], -1)
            right = np.cumsum(call.tokens[0, :length]) % NUM_WORDS
            wrong += [] if np.array_equal(told, right) else [case.id]
    assert wrong == (["sweep_prefixes/sweep/shared_but_first~redrawn-1.float32"] if block_alone else [])


def test_a_server_that_refuses_is_an_error_in_one_line(stub: str, tmp_path: Path) -> None:
    _, folder = answered(stub, "other", 2, tmp_path, two_calls())
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "error"
    assert "HTTP 400" in result["reason"]
    assert "\n" not in result["reason"]


def test_no_server_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "NUM_TRIES", 1)
    _, folder = answered("http://127.0.0.1:9", "none", 2, tmp_path, two_calls())
    assert json.loads((folder / "result.json").read_text())["status"] == "error"


def test_llama_cpps_server_renormalises_the_gates_and_reads_gelu_from_a_table_as_http_alone_shows(
    tmp_path: Path,
) -> None:
    llama = pytest.importorskip("xllamacpp")
    export(PRESET, "gguf", "float32", tmp_path / "probe.gguf")
    options = llama.CommonParams()
    options.model.path = str(tmp_path / "probe.gguf")
    options.n_ctx, options.n_parallel, options.warmup, options.port = 512, 4, False, 0
    options.cpuparams.n_threads = 1
    options.cache_type_k = options.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    options.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = llama.Server(options)
    (call,) = CASE.calls
    case = replace(CASE, calls=(Call("prefill", call.tokens[:6], call.lengths[:6]),))
    _, folder = answered(server.listening_address, "llama_server", 256, tmp_path, case)
    info = CandidateInfo(name="server", version="", taps=("logits",), logits=LogitForm(kind="log_probabilities"))
    exhibit = exhibit_of(PRESET, case, info, open_tensors(folder / "taps.safetensors"))

    def ratio(evaluator: Evaluator) -> float:
        (found,) = check_case(exhibit, num_elements=10**6, evaluator=evaluator)
        return found.ratio

    own = both(FAULTS["gates_renormalised"], FAULTS["gelu_fp16_table"])
    assert ratio(evaluate) > 10
    assert ratio(mutant(FAULTS["gelu_fp16_table"])) > 10
    assert ratio(mutant(own)) <= 1  # shared prefixes and parallel requests of unequal lengths, and all else right
