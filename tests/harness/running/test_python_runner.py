"""The program that runs a Python candidate over a job; long because all tests share one small candidate and its job."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.contract import CandidateInfo
from grok_conformance.harness.formats.files import read_json
from grok_conformance.harness.running import python_runner
from grok_conformance.harness.running.answers import Answer, read_answer, unrepeated
from grok_conformance.harness.running.jobs import Job, write_job
from tests.harness import tiny_job
from tests.harness.tiny_job import FIRST, LAST, MIDDLE, PRESET, call, case, preloaded, write_adapter


@pytest.fixture(autouse=True)
def _restored_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def answers_of(adapter: Path, tmp_path: Path, job: Job, expected_status: int = 0) -> dict[str, Answer]:
    assert python_runner.main(str(adapter), tmp_path / "job", tmp_path / "out") == expected_status
    return read_answer(tmp_path / "out", job)


def answer_one(tmp_path: Path, source: str, asked: Case, taps: tuple[str, ...] = ("logits",)) -> Answer:
    """Write an adapter and a job of one case, and return the answer to it."""
    path = tmp_path / "adapter.py"
    path.write_text(source)
    job = write_job(tmp_path / "job", "1.0.0", PRESET, [asked], taps)
    return answers_of(path, tmp_path, job)[asked.id]


def test_every_call_of_every_case_is_answered_with_the_declared_taps(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    answers = answers_of(write_adapter(tmp_path), tmp_path, job)
    assert [answers[case_id].status for case_id in (FIRST, MIDDLE, LAST)] == ["answered"] * 3
    last = answers[LAST]
    assert set(last.taps) == {f"call{i}/{tap}" for i in (0, 1) for tap in ("layers.00.kv.keys", "logits")}
    assert np.all(last.taps["call0/logits"] == 7)
    assert np.all(last.taps["call1/logits"] == 5)
    assert set(last.reruns) == {"again", "untapped", "silent", "later"}
    assert unrepeated(last, "again", last.taps) == unrepeated(last, "later", last.taps) == ()
    assert unrepeated(last, "untapped", ["call0/logits", "call1/logits"]) == ()
    assert set(last.reruns["silent"].digests) == {"call1/layers.00.kv.keys", "call1/logits"}
    assert last.seconds is not None
    assert last.extra == ()
    assert last.info == CandidateInfo(name="fake", version="1.0", taps=("logits", "layers.*.kv.*"))


def test_a_job_that_cannot_be_read_is_told_in_one_line_and_nothing_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_job.write_three_cases(tmp_path / "job")
    path = tmp_path / "job" / "job.json"
    path.write_text(path.read_text()[:100])
    assert python_runner.main(str(write_adapter(tmp_path)), tmp_path / "job", tmp_path / "out") == python_runner.FAILED
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: not valid JSON")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_configuration_or_weights_that_cannot_be_read_are_the_answer_to_every_case(name: str, tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    (tmp_path / "job" / name).write_bytes((tmp_path / "job" / name).read_bytes()[:20])
    for found in answers_of(write_adapter(tmp_path), tmp_path, job, expected_status=python_runner.FAILED).values():
        assert found.status == "error"
        assert f"{tmp_path / 'job' / name}: " in found.reason


def test_inputs_that_cannot_be_read_are_an_error_of_their_case_alone(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    (tmp_path / "job" / job.cases[1].inputs).write_bytes(b"")
    answers = answers_of(write_adapter(tmp_path), tmp_path, job)
    assert [answers[case_id].status for case_id in (FIRST, MIDDLE, LAST)] == ["answered", "error", "answered"]
    assert job.cases[1].inputs in answers[MIDDLE].reason


def test_an_exception_in_one_case_is_an_error_with_its_place_and_the_others_go_on(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    adapter = write_adapter(tmp_path, in_middle_case="raise ValueError('bad\\nluck')")
    answers = answers_of(adapter, tmp_path, job)
    assert answers[MIDDLE].status == "error"
    assert answers[MIDDLE].reason == "ValueError: bad luck (adapter.py:15 in prefill)"
    assert answers[FIRST].status == answers[LAST].status == "answered"
    assert "Traceback" in read_json(tmp_path / "out" / job.cases[1].folder / "result.json")["traceback"]


def test_sys_exit_in_one_case_is_an_error_and_the_others_go_on(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    answers = answers_of(write_adapter(tmp_path, in_middle_case="sys.exit(0)"), tmp_path, job)
    assert [answers[case_id].status for case_id in (FIRST, MIDDLE, LAST)] == ["answered", "error", "answered"]


def test_a_case_may_be_unsupported(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    answers = answers_of(write_adapter(tmp_path, in_middle_case="raise Unsupported('no 66')"), tmp_path, job)
    assert (answers[MIDDLE].status, answers[MIDDLE].reason) == ("unsupported", "no 66")
    assert answers[LAST].status == "answered"


@pytest.mark.parametrize(
    ("at_load", "exit_status", "status", "reason"),
    [
        ("raise Unsupported('only dense')", python_runner.REFUSED, "unsupported", "only dense"),
        ("raise Unsupported", python_runner.REFUSED, "unsupported", "it gave no reason: raise Unsupported(reason)"),
        (
            "import an_engine.that_is_absent",
            python_runner.REFUSED,
            "unsupported",
            "needs an_engine, which is not installed",
        ),
        ("raise OSError('no device')", python_runner.FAILED, "error", "OSError: no device (adapter.py:9 in load)"),
        ("sys.exit(0)", python_runner.FAILED, "error", "SystemExit: 0 (adapter.py:9 in load)"),
    ],
)
def test_a_refusal_or_failure_to_load_is_the_answer_to_every_case(
    tmp_path: Path, at_load: str, exit_status: int, status: str, reason: str
) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    answers = answers_of(write_adapter(tmp_path, at_load=at_load), tmp_path, job, exit_status)
    assert {(answer.status, answer.reason) for answer in answers.values()} == {(status, reason)}


def test_a_compute_dtype_that_the_candidate_does_not_run_is_unsupported_before_loading(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    adapter = write_adapter(tmp_path, at_load="raise AssertionError")
    adapter.write_text(adapter.read_text().replace("taps=", "fprop_dtypes=('float32',), taps="))
    answer = answers_of(adapter, tmp_path, job, python_runner.REFUSED)[FIRST]
    assert (answer.status, answer.reason) == ("unsupported", "fprop_dtype bfloat16; it runs float32")


@pytest.mark.parametrize(
    "source", ["", "INFO = 3\ndef load(config, weights): ...", "import grok_conformance.harness\n1 / 0"]
)
def test_a_module_that_is_no_candidate_is_an_error(tmp_path: Path, source: str) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    (tmp_path / "adapter.py").write_text(source)
    answers = answers_of(tmp_path / "adapter.py", tmp_path, job, python_runner.FAILED)
    assert {answer.status for answer in answers.values()} == {"error"}


def test_a_syntax_error_is_told_with_its_own_place_alone(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    (tmp_path / "adapter.py").write_text("x = 1\ndef load(:\n")
    reason = answers_of(tmp_path / "adapter.py", tmp_path, job, python_runner.FAILED)[FIRST].reason
    assert reason.startswith("SyntaxError: ")
    assert reason.endswith("(adapter.py, line 2)")


def test_an_adapter_may_import_the_files_beside_it(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    (tmp_path / "my_engine_beside.py").write_text("")
    answers = answers_of(write_adapter(tmp_path, at_load="import my_engine_beside"), tmp_path, job)
    assert answers[FIRST].status == "answered"


def test_a_process_imports_a_file_once_or_anew(tmp_path: Path) -> None:
    path = tmp_path / "counting.py"
    path.write_text("BEGUN = []")
    first = python_runner.import_candidate(str(path))
    assert python_runner.import_candidate(str(path), anew=False) is first
    assert python_runner.import_candidate(str(path)) is not first


def test_what_a_port_keeps_between_jobs_stays(tmp_path: Path) -> None:
    job = tiny_job.write_three_cases(tmp_path / "job")
    adapter = write_adapter(tmp_path, at_load="BEGUN.append(1); assert len(BEGUN) < 2")
    adapter.write_text(f"{adapter.read_text()}\nBEGUN = []\n")
    assert {answer.status for answer in answers_of(adapter, tmp_path, job).values()} == {"answered"}
    assert {answer.status for answer in answers_of(adapter, tmp_path, job, 2).values()} == {"error"}


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        (case("tiny/a", call("prefill", [1]), call("extend", [2, 3])), "extend"),
        (preloaded("tiny/a", call("decode", [1])), "preload"),
        (
            case("tiny/a", call("prefill", [1, 2]), replace(call("truncate", [3]), steps=np.ones(1, np.int32))),
            "truncate",
        ),
    ],
)
def test_a_model_without_extend_or_preload_does_not_support_the_cases_that_need_it(
    tmp_path: Path, asked: Case, method: str
) -> None:
    answer = answer_one(tmp_path, write_adapter(tmp_path).read_text(), asked)
    assert (answer.status, answer.reason) == ("unsupported", f"the model has no {method}()")


STATEFUL = """
import numpy as np
from grok_conformance.harness.contract import CandidateInfo

INFO = CandidateInfo(name="stateful", version="1", taps=("logits", "layers.*.kv.keys"))

def load(config, weights):
    return Model()

class Model:
    def preload(self, keys, values, steps):
        self.keys, self.steps = keys, steps

    def prefill(self, tokens, lengths, taps):
        self.keys, self.steps = np.zeros((1, 1, 5, 2, 2), np.float32), np.zeros(1, np.int32)
        return self.extend(tokens, lengths, taps)

    def extend(self, tokens, lengths, taps):
        for token in tokens[0, : lengths[0]]:
            self.keys[0, 0, self.steps[0]] = token  # in place: the caller's array, or that of the call before
            self.steps[0] += 1
        tokens[:] = 0
        return {"layers.00.kv.keys": self.keys[0]}

    def decode(self, tokens, taps):
        return self.extend(tokens, np.ones(1, np.int32), taps)
"""


def test_an_engine_that_reuses_its_arrays_spoils_neither_earlier_calls_nor_the_second_run(tmp_path: Path) -> None:
    asked = preloaded("tiny/a", call("extend", [7, 8]), call("decode", [9]))
    answer = answer_one(tmp_path, STATEFUL, asked, ("layers.*.kv.keys",))
    assert answer.taps["call0/layers.00.kv.keys"][0, :, 0, 0].tolist() == [0, 4, 7, 8, 16]
    assert answer.taps["call1/layers.00.kv.keys"][0, :, 0, 0].tolist() == [0, 4, 7, 8, 9]
    assert unrepeated(answer, "again", answer.taps) == ()


def test_every_prefill_starts_afresh(tmp_path: Path) -> None:
    answer = answer_one(tmp_path, STATEFUL, case("tiny/a", call("prefill", [7])), ("layers.*.kv.keys",))
    assert answer.taps["call0/layers.00.kv.keys"][0, :, 0, 0].tolist() == [7, 0, 0, 0, 0]
    assert unrepeated(answer, "again", answer.taps) == ()


def test_a_candidate_that_answers_differently_the_second_time_is_seen(tmp_path: Path) -> None:
    source = write_adapter(tmp_path).read_text().replace("tokens.sum()", "time.perf_counter_ns() % 1_000_003")
    answer = answer_one(tmp_path, source, case("tiny/a", call("prefill", [1])))
    assert answer.status == "answered"
    assert unrepeated(answer, "again", answer.taps) == ("call0/logits",)


RECORDER = """
import numpy as np
from grok_conformance.harness.contract import CandidateInfo

INFO = CandidateInfo(name="recorder", version="1", taps=("logits", "embedding"))

def load(config, weights):
    return Model()

class Model:
    def prefill(self, tokens, lengths, taps):
        return {"logits": np.array([len(taps)], np.int32), "embeding": np.zeros(1, np.float32)}

    decode = None
"""


def test_the_untapped_run_wants_logits_alone_and_a_misspelt_tap_is_named(tmp_path: Path) -> None:
    wanted = ("logits", "embedding", "output", "layers.*.kv.*")
    answer = answer_one(tmp_path, RECORDER, case("tiny/a", call("prefill", [1])), wanted)
    assert answer.taps["call0/logits"].tolist() == [2]
    assert answer.reruns["untapped"].taps["call0/logits"].tolist() == [1]
    assert "taps.safetensors: call0/embeding" in answer.extra


def test_a_case_that_wants_no_logits_is_answered_without_an_untapped_run(tmp_path: Path) -> None:
    answer = answer_one(tmp_path, RECORDER, case("tiny/a", call("prefill", [1])), ("embedding",))
    assert answer.status == "answered"
    assert set(answer.reruns) == {"again", "later"}


def test_a_value_that_is_no_array_is_an_error_that_names_the_tap(tmp_path: Path) -> None:
    source = RECORDER.replace("np.array([len(taps)], np.int32)", "None")
    answer = answer_one(tmp_path, source, case("tiny/a", call("prefill", [1])))
    assert answer.status == "error"
    assert "prefill: logits: NoneType is no array: return a NumPy array or a tensor" in answer.reason


def test_an_array_of_objects_is_told_as_one(tmp_path: Path) -> None:
    source = RECORDER.replace("np.array([len(taps)], np.int32)", "np.array([1, None])")
    answer = answer_one(tmp_path, source, case("tiny/a", call("prefill", [1])))
    assert "prefill: logits: an array of Python objects: give it a dtype, such as x.astype(" in answer.reason


def test_a_tap_that_no_model_has_is_told_where_it_is_declared() -> None:
    info = CandidateInfo(name="port", version="1", taps=("logits", "layers.*.nope"))
    with pytest.raises(ValueError, match=r"^INFO in e8\.py: taps: no tap 'layers\.\*\.nope'; did you mean"):
        python_runner.info_of(SimpleNamespace(INFO=info, load=print), "/somewhere/e8.py")


COUNTER = """
import os
import numpy as np
from grok_conformance.harness.contract import CandidateInfo

INFO = CandidateInfo(name="counter", version="1", taps=("logits",))

def load(config, weights):
    return Model()

class Model:
    num_calls = 0

    def prefill(self, tokens, lengths, taps):
        self.num_calls += 1
        {when_called}
        return {{"logits": np.array([tokens[0, 0], self.num_calls], np.int32)}}

    def decode(self, tokens, taps):
        return self.prefill(tokens, None, taps)
"""


def counted(tmp_path: Path, when_called: str = "pass") -> dict[str, Answer]:
    path = tmp_path / "adapter.py"
    path.write_text(COUNTER.format(when_called=when_called))
    asked = [case(f"tiny/{token}", call("prefill", [token])) for token in (1, 2)]
    job = write_job(tmp_path / "job", "1.0.0", PRESET, asked, ("logits",))
    return answers_of(path, tmp_path, job)


def test_every_case_is_run_once_more_on_the_same_model_after_all_others_in_another_order(tmp_path: Path) -> None:
    answers = counted(tmp_path)
    later = {case_id: answer.reruns["later"].taps["call0/logits"].tolist() for case_id, answer in answers.items()}
    assert later == {"tiny/1": [1, 8], "tiny/2": [2, 7]}


def test_values_of_a_further_run_are_written_only_where_they_differ(tmp_path: Path) -> None:
    answers = counted(tmp_path, "self.num_calls = 1")
    assert {len(rerun.taps) for answer in answers.values() for rerun in answer.reruns.values()} == {0}
    assert not list(tmp_path.glob("out/*/again.safetensors"))


def test_a_candidate_that_raises_when_it_is_run_again_has_answered_and_the_run_says_so(tmp_path: Path) -> None:
    answers = counted(tmp_path, "assert self.num_calls < 8, 'worn out'")
    assert {answer.status for answer in answers.values()} == {"answered"}
    assert answers["tiny/2"].reruns["later"].status == "answered"
    assert answers["tiny/1"].reruns["later"].status == "error"
    assert "worn out" in answers["tiny/1"].reruns["later"].reason
