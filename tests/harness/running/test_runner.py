"""`run_job` by every way in which a program may end; long because each of them brings a small program."""

import os
import signal
import time
from pathlib import Path

import pytest

from grok_conformance.harness.formats.files import FileError, read_json
from grok_conformance.harness.running import runner
from grok_conformance.harness.running.answers import Answer, read_answer
from grok_conformance.harness.running.child_process import MAX_LOG_BYTES, Limits
from grok_conformance.harness.running.jobs import Job, read_job, write_job
from grok_conformance.harness.running.registry import Candidate, find_candidate
from grok_conformance.harness.running.runner import RunRecord, run_job, run_jobs
from tests.harness import tiny_job
from tests.harness.tiny_job import FIRST, LAST, MIDDLE, MIDDLE_TOKEN, PRESET, call, case, write_adapter

LIMITS = Limits(silent_seconds=60.0)

ANSWER_FIRST = """
mkdir -p "$2/000-prefill-first"
echo '{"status": "unsupported", "reason": "by hand"}' > "$2/000-prefill-first/result.json"
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return tiny_job.write_three_cases(tmp_path / "job")


def write_program(folder: Path, script: str) -> Candidate:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return find_candidate(str(path))


def run(candidate: Candidate, tmp_path: Path, job: Job, limits: Limits = LIMITS) -> tuple[RunRecord, list[Answer]]:
    """Run the three cases and return the record and the answers in their order."""
    record = run_job(candidate, tmp_path / "job", tmp_path / "out", limits)
    answers = read_answer(tmp_path / "out", job)
    return record, [answers[case_id] for case_id in (FIRST, MIDDLE, LAST)]


def run_adapter(
    tmp_path: Path, job: Job, in_middle_case: str, limits: Limits = LIMITS
) -> tuple[RunRecord, list[Answer]]:
    return run(find_candidate(str(write_adapter(tmp_path, in_middle_case=in_middle_case))), tmp_path, job, limits)


def statuses(answers: list[Answer]) -> list[str]:
    return [answer.status for answer in answers]


def test_a_python_candidate_answers_a_job_and_its_progress_is_told(tmp_path: Path, job: Job) -> None:
    told: list[str] = []
    candidate = find_candidate(str(write_adapter(tmp_path, at_load="print('loaded')")))
    record = run_job(candidate, tmp_path / "job", tmp_path / "out", LIMITS, told.append)
    assert statuses(list(read_answer(tmp_path / "out", job).values())) == ["answered"] * 3
    assert told == [FIRST, MIDDLE, LAST]
    assert [end.status for end in record.exits] == [0]
    assert not record.unanswered
    assert record.seconds > 0
    assert record.peak_bytes > 2**20
    assert (tmp_path / "out" / "stdout.txt").read_text() == "loaded\n"
    assert read_json(tmp_path / "out" / "run.json")["exits"][0]["status"] == 0


@pytest.mark.parametrize(
    ("in_middle_case", "reason"),
    [
        ("ctypes.string_at(0)", "ended by signal 11, Segmentation fault"),
        ("os._exit(3)", "the program ended with status 3: no word on stderr"),
        ("print('out of luck', file=sys.stderr, flush=True); os._exit(1)", "ended with status 1: out of luck"),
    ],
)
def test_a_crash_is_an_error_of_its_case_and_the_others_are_answered(
    tmp_path: Path, job: Job, in_middle_case: str, reason: str
) -> None:
    record, answers = run_adapter(tmp_path, job, in_middle_case)
    assert statuses(answers) == ["answered", "error", "answered"]
    assert reason in answers[1].reason
    assert len(record.exits) == 2


def test_a_hang_is_an_error_of_its_case_and_the_others_are_answered(tmp_path: Path, job: Job) -> None:
    record, answers = run_adapter(tmp_path, job, "time.sleep(600)", Limits(silent_seconds=4.0))
    assert statuses(answers) == ["answered", "error", "answered"]
    assert answers[1].reason == "no answer within 4 seconds"
    assert [end.broke for end in record.exits] == ["time", None]


def test_too_much_memory_is_an_error_of_its_case_and_the_others_are_answered(tmp_path: Path, job: Job) -> None:
    greedy = "kept = [(time.sleep(0.02), np.ones(2**21))[1] for _ in range(300)]"  # 16 MiB at a time
    record, answers = run_adapter(tmp_path, job, greedy, Limits(silent_seconds=60.0, memory_bytes=250 * 2**20))
    assert statuses(answers) == ["answered", "error", "answered"]
    assert answers[1].reason.startswith("took ")
    assert answers[1].reason.endswith(" MiB of memory, allowed are 250")
    assert [end.broke for end in record.exits] == ["memory", None]
    assert 250 * 2**20 < record.peak_bytes < 600 * 2**20


def test_the_memory_of_child_processes_counts_too(tmp_path: Path, job: Job) -> None:
    script = "import time; kept = bytearray(150 * 2**20); time.sleep(600)"
    spawn = f"import subprocess; [subprocess.Popen([sys.executable, '-c', {script!r}]) for _ in '12']; time.sleep(600)"
    _, answers = run_adapter(tmp_path, job, spawn, Limits(silent_seconds=60.0, memory_bytes=250 * 2**20))
    assert answers[1].reason.endswith(" MiB of memory, allowed are 250")


def test_nothing_that_a_candidate_started_lives_on(tmp_path: Path, job: Job) -> None:
    pid_file = tmp_path / "pid"
    candidate = write_program(tmp_path, f"sleep 600 & echo $! > {pid_file}; exit 0")
    _, answers = run(candidate, tmp_path, job)
    assert statuses(answers) == ["missing"] * 3
    with pytest.raises(ProcessLookupError):
        kill_soon_gone(int(pid_file.read_text()))


def test_a_process_that_left_the_session_of_its_candidate_does_not_live_on_either(tmp_path: Path, job: Job) -> None:
    pid_file = tmp_path / "pid"
    candidate = write_program(tmp_path, f"setsid sleep 600 & echo $! > {pid_file}; sleep 0.2; exit 0")
    _, answers = run(candidate, tmp_path, job)
    assert statuses(answers) == ["missing"] * 3
    with pytest.raises(ProcessLookupError):
        kill_soon_gone(int(pid_file.read_text()))


def kill_soon_gone(pid: int) -> None:
    """Probe a process for up to 5 s, since the kernel takes a moment to remove a killed one."""
    for _ in range(100):
        os.kill(pid, 0)
        time.sleep(0.05)


def test_a_program_in_any_language_is_started_again_for_the_cases_after_a_crash(tmp_path: Path, job: Job) -> None:
    answer_last = ANSWER_FIRST.replace("000-prefill-first", "002-prefill-last")
    candidate = write_program(
        tmp_path,
        f"if grep -q first $1/job.json; then {ANSWER_FIRST} kill -9 $$; else test -f $1/inputs/002*; {answer_last} fi",
    )
    record, answers = run(candidate, tmp_path, job)
    assert statuses(answers) == ["unsupported", "error", "unsupported"]
    assert answers[1].reason == "ended by signal 9, Killed"
    assert [end.status for end in record.exits] == [-signal.SIGKILL, 0]


def test_two_crashes_apart_from_each_other_are_two_errors_and_no_more(tmp_path: Path) -> None:
    cases = [case(f"tiny/{i}", call("prefill", [MIDDLE_TOKEN if i in {1, 3} else i])) for i in range(5)]
    job = write_job(tmp_path / "job", "1.0.0", PRESET, cases, ("logits",))
    candidate = find_candidate(str(write_adapter(tmp_path, in_middle_case="os._exit(3)")))
    record = run_job(candidate, tmp_path / "job", tmp_path / "out", LIMITS)
    answers = list(read_answer(tmp_path / "out", job).values())
    assert statuses(answers) == ["answered", "error", "answered", "error", "answered"]
    assert len(record.exits) == 3


def test_the_time_limit_is_for_one_case_and_not_for_the_job(tmp_path: Path, job: Job) -> None:
    names = ("000-prefill-first", "001-prefill-middle", "002-prefill-last")
    script = "".join(f"sleep 0.6; {ANSWER_FIRST.replace(names[0], name)}" for name in names)
    record, answers = run(write_program(tmp_path, script), tmp_path, job, Limits(silent_seconds=1.5))
    assert statuses(answers) == ["unsupported"] * 3
    assert record.exits[0].broke is None
    assert record.seconds > 1.5


def test_a_case_answered_just_before_the_end_is_told_too(tmp_path: Path, job: Job) -> None:
    told: list[str] = []
    run_job(write_program(tmp_path, ANSWER_FIRST), tmp_path / "job", tmp_path / "out", LIMITS, told.append)
    assert told == [job.cases[0].id]


def test_a_python_candidate_runs_in_any_working_directory(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    write_adapter(tmp_path)
    run_job(find_candidate("adapter.py"), Path("job"), Path("out"), LIMITS)
    assert statuses(list(read_answer(tmp_path / "out", job).values())) == ["answered"] * 3


def test_a_program_that_never_answers_is_given_up_after_two_starts(tmp_path: Path, job: Job) -> None:
    record, answers = run(write_program(tmp_path, "echo no licence >&2; exit 7"), tmp_path, job)
    assert statuses(answers) == ["error"] * 3
    assert len(record.exits) == 2
    reason = "the program ended with status 7: no licence"
    assert [answer.reason for answer in answers[:2]] == [reason] * 2
    assert answers[2].reason == f"not reached in 2 starts without an answer: {reason}"


def test_a_program_refuses_a_job_with_exit_1_and_its_reason(tmp_path: Path, job: Job) -> None:
    record, answers = run(write_program(tmp_path, "echo 'unsupported: no bfloat16' >&2; exit 1"), tmp_path, job)
    assert {(answer.status, answer.reason) for answer in answers} == {("unsupported", "no bfloat16")}
    assert len(record.exits) == 1


def test_exit_1_without_a_refusal_such_as_an_uncaught_exception_is_an_error(tmp_path: Path, job: Job) -> None:
    _, answers = run(write_program(tmp_path, "echo 'KeyError: 3' >&2; exit 1"), tmp_path, job)
    assert statuses(answers) == ["error"] * 3
    assert answers[0].reason == "the program ended with status 1: KeyError: 3"


def test_cases_left_out_by_a_program_that_ends_well_are_missing(tmp_path: Path, job: Job) -> None:
    record, answers = run(write_program(tmp_path, ANSWER_FIRST), tmp_path, job)
    assert statuses(answers) == ["unsupported", "missing", "missing"]
    assert answers[1].reason == "the program ended with status 0 and wrote no result"
    assert len(record.exits) == 1


def test_a_refusal_to_load_leaves_its_reason_in_every_case(tmp_path: Path, job: Job) -> None:
    candidate = find_candidate(str(write_adapter(tmp_path, at_load="raise Unsupported('no G = 3')")))
    record, answers = run(candidate, tmp_path, job)
    assert {(answer.status, answer.reason) for answer in answers} == {("unsupported", "no G = 3")}
    assert [end.status for end in record.exits] == [1]


def test_oversized_output_is_cut_and_its_end_is_kept_in_the_record(tmp_path: Path, job: Job) -> None:
    candidate = write_program(tmp_path, "head -c 5000000 /dev/zero | tr '\\0' x >&2; echo; echo the end >&2; exit 0")
    record, answers = run(candidate, tmp_path, job)
    assert statuses(answers) == ["missing"] * 3
    assert (tmp_path / "out" / "stderr.txt").stat().st_size == MAX_LOG_BYTES
    assert record.exits[0].stderr_tail.endswith("xthe end\n")
    assert len(record.exits[0].stderr_tail) <= 4000


def test_an_endless_stream_of_output_does_not_outlive_the_time_limit(tmp_path: Path, job: Job) -> None:
    record, answers = run(write_program(tmp_path, "exec yes"), tmp_path, job, Limits(silent_seconds=0.5))
    assert statuses(answers) == ["error"] * 3
    assert [end.broke for end in record.exits] == ["time", "time"]


def test_a_case_folder_that_links_out_of_the_answers_is_an_error_and_nothing_is_written_there(
    tmp_path: Path, job: Job
) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = f'rmdir "$2/001-prefill-middle" && ln -s {tmp_path / "elsewhere"} "$2/001-prefill-middle"'
    candidate = write_program(tmp_path, f"{ANSWER_FIRST} {link}; exit 7")
    _, answers = run(candidate, tmp_path, job)
    assert answers[1].status == "error"
    assert answers[1].reason.endswith("001-prefill-middle: a link; answers must be plain files")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_candidate_cannot_forge_the_record_of_its_run(tmp_path: Path, job: Job) -> None:
    forged = '{"unanswered": {}}'
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    candidate = write_program(
        tmp_path, f'echo "{forged}" > $2/run.json; rm $2/stderr.txt; ln -s {outside} $2/stderr.txt; exit 7'
    )
    _, answers = run(candidate, tmp_path, job)
    assert statuses(answers) == ["error"] * 3
    assert outside.read_text() == "untouched"


def write_two_jobs(folder: Path) -> list[tuple[Path, Path]]:
    folders = [(folder / f"job{i}", folder / f"out{i}") for i in range(2)]
    for job_dir, _ in folders:
        tiny_job.write_three_cases(job_dir)
    return folders


def test_a_python_candidate_answers_several_jobs_in_one_process(tmp_path: Path) -> None:
    folders = write_two_jobs(tmp_path)
    told: list[str] = []
    candidate = find_candidate(str(write_adapter(tmp_path)))
    records = run_jobs(candidate, folders, LIMITS, told.append)
    assert [len(record.exits) for record in records] == [1, 0]
    assert told == [FIRST, MIDDLE, LAST] * 2
    for job_dir, out_dir in folders:
        assert statuses(list(read_answer(out_dir, read_job(job_dir)).values())) == ["answered"] * 3


def test_a_crash_over_several_jobs_is_an_error_of_its_case_in_each(tmp_path: Path) -> None:
    folders = write_two_jobs(tmp_path)
    candidate = find_candidate(str(write_adapter(tmp_path, in_middle_case="os._exit(3)")))
    run_jobs(candidate, folders, LIMITS)
    for job_dir, out_dir in folders:
        answers = list(read_answer(out_dir, read_job(job_dir)).values())
        assert statuses(answers) == ["answered", "error", "answered"]


def test_a_log_that_a_candidate_replaced_by_a_link_is_not_written_through(tmp_path: Path) -> None:
    folders = write_two_jobs(tmp_path)
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    log = str(folders[0][1] / "stderr.txt")
    plant = f"os.remove({log!r}); os.symlink({str(outside)!r}, {log!r})"
    crash = f"{plant}; print('loud', file=sys.stderr, flush=True); os._exit(3)"
    run_jobs(find_candidate(str(write_adapter(tmp_path, in_middle_case=crash))), folders, LIMITS)
    assert outside.read_text() == "untouched"


def test_a_program_that_takes_one_job_is_run_once_for_each(tmp_path: Path) -> None:
    folders = write_two_jobs(tmp_path)
    records = run_jobs(write_program(tmp_path, f"test $# = 2 || exit 9; {ANSWER_FIRST}"), folders, LIMITS)
    assert [[end.status for end in record.exits] for record in records] == [[0], [0]]


def test_answers_are_never_mixed_with_those_already_there(tmp_path: Path, job: Job) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(FileError, match="out: not empty"):
        run(write_program(tmp_path, ANSWER_FIRST), tmp_path, job)


def test_a_file_that_cannot_be_started_is_an_error_that_names_it(tmp_path: Path, job: Job) -> None:
    candidate = write_program(tmp_path, "")
    Path(candidate.command[0]).write_bytes(b"\x7fELF")
    with pytest.raises(FileError, match="program: cannot be started: Exec format error"):
        run(candidate, tmp_path, job)


def test_an_interrupted_run_leaves_no_child_behind(tmp_path: Path, job: Job) -> None:
    pid_file = tmp_path / "pid"
    candidate = write_program(tmp_path, f"echo $$ > {pid_file}; {ANSWER_FIRST} exec sleep 600")

    def interrupt(case_id: str) -> None:
        raise KeyboardInterrupt(case_id)

    with pytest.raises(KeyboardInterrupt):
        run_job(candidate, tmp_path / "job", tmp_path / "out", LIMITS, interrupt)
    with pytest.raises(ProcessLookupError):
        kill_soon_gone(int(pid_file.read_text()))
    assert job.cases


def test_the_taps_of_a_first_run_and_a_later_run_that_began_are_progress_once_and_unreported(
    tmp_path: Path, job: Job
) -> None:
    told: list[str] = []
    folder = tmp_path / job.cases[0].folder
    folder.mkdir()
    progressed = runner._progress([(tmp_path, job.cases[0])], told.append)
    seen = [progressed()]
    for name in ("taps.safetensors", "later.json"):
        (folder / name).touch()
        seen += [progressed(), progressed()]
    assert (seen, told) == ([False, True, False, True, False], [])
