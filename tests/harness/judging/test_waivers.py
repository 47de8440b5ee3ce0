"""Files of known deviations: what they may say, and when a waiver is out of date."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.waivers import (
    Waiver,
    builtin_waivers,
    check_cases,
    in_case,
    outdated,
    read_waivers,
    waivers_of,
)
from grok_conformance.harness.running.registry import builtin_names

DEVIATION = {
    "candidate": "port",
    "case": "*",
    "tap": "moe.expert_gate",
    "fault": "gates_renormalised",
    "reason": "as in most other mixtures of experts",
    "reference": "issue 7",
    "expires": "2027-06-30",
}
REFUSAL = {
    "candidate": "port",
    "case": "dense/*",
    "says": "only mixtures of *",
    "reason": "no dense block",
    "reference": "issue 8",
    "expires": "2027-06-30",
}
WAIVER = Waiver(source="known.toml", **DEVIATION)
CASES = ("dense/decode/a.float32", "square/prefill/b.float32", "square/prefill/b.bfloat16")
TODAY = date(2026, 12, 1)


def written(folder: Path, kind: str = "deviation", **row: str) -> Path:
    path = folder / "known.toml"
    fields = {**(DEVIATION if kind == "deviation" else REFUSAL), **row}
    path.write_text(f"[[{kind}]]\n" + "".join(f'{key} = "{value}"\n' for key, value in fields.items()))
    return path


def test_a_file_holds_deviations_and_refusals(tmp_path: Path) -> None:
    deviation = written(tmp_path).read_text()
    path = written(tmp_path, "unsupported")
    path.write_text(deviation + path.read_text())
    known, refusal = read_waivers(path)
    assert known == WAIVER
    assert refusal.accepts("only mixtures of experts")
    assert not refusal.accepts("no memory")
    assert not WAIVER.accepts("")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tap": "moe.expert_gates"}, "no tap or operation 'moe.expert_gates'; did you mean moe.expert_gate"),
        ({"tap": "layers.00.logits"}, "no tap or operation 'layers.00.logits'"),
        ({"tap": "layers.*.moe.expert_gate"}, "no tap or operation"),
        ({"fault": "gates_normalised"}, "no fault 'gates_normalised'; did you mean gates_renormalised"),
        ({"tap": "logits"}, "fault gates_renormalised shows at moe.expert_gate, not at logits"),
        ({"expires": "2027-02-30"}, "expires '2027-02-30'"),
        ({"expires": "tomorrow"}, "expires"),
        ({"reason": ""}, "reason"),
        ({"tap": "moe.expert_index", "fault": ""}, "the choice of experts decides all that follows"),
        ({"layer": "1"}, "layer"),
    ],
)
def test_what_a_file_may_not_say_is_told_in_one_line_that_names_it(
    row: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, **row)
    with pytest.raises(FileError) as caught:
        read_waivers(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[[deviation]]\ncandidate = ", "deviations = []\n", '[[deviation]]\ncase = "*"\n'])
def test_what_is_no_file_of_waivers_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(text)
    with pytest.raises(FileError, match=r"known\.toml"):
        read_waivers(path)
    with pytest.raises(FileError, match=r"absent\.toml: cannot be read"):
        read_waivers(tmp_path / "absent.toml")


def test_an_operation_means_all_its_layers_and_a_tap_one_of_them(tmp_path: Path) -> None:
    (one,) = read_waivers(written(tmp_path, tap="layers.01.moe.expert_gate"))
    assert [WAIVER.covers(f"layers.0{i}.moe.expert_gate") for i in (0, 1)] == [True, True]
    assert [one.covers(f"layers.0{i}.moe.expert_gate") for i in (0, 1)] == [False, True]
    assert not WAIVER.covers("layers.00.moe.expert_index")


def test_a_waiver_holds_for_its_candidate_and_in_its_cases(tmp_path: Path) -> None:
    (some,) = read_waivers(written(tmp_path, candidate="port*", case="square/*.float32"))
    assert waivers_of([WAIVER, some], "port_f16") == (some,)
    assert waivers_of([WAIVER, some], "other") == ()
    assert in_case([WAIVER, some], CASES[0]) == (WAIVER,)
    assert in_case([WAIVER, some], CASES[1]) == (WAIVER, some)


def test_a_glob_that_matches_no_case_is_an_error(tmp_path: Path) -> None:
    check_cases([WAIVER], CASES)
    with pytest.raises(FileError, match=r"known\.toml: .*no case 'sqare/\*'"):
        check_cases(read_waivers(written(tmp_path, case="sqare/*")), CASES)


@pytest.mark.parametrize(
    ("used", "ran", "today", "message"),
    [
        ([WAIVER.name], CASES, TODAY, ""),
        ([WAIVER.name], CASES, date(2027, 6, 30), ""),
        ([WAIVER.name], CASES, date(2027, 7, 1), "expired 2027-06-30"),
        ([], CASES, TODAY, "no longer needed"),
        ([], CASES[:2], TODAY, ""),  # the other cases did not run: they may need it
    ],
)
def test_a_waiver_is_out_of_date_once_it_has_expired_or_nothing_needs_it(
    used: list[str], ran: tuple[str, ...], today: date, message: str
) -> None:
    lines = outdated([WAIVER], used, ran, CASES, today)
    assert len(lines) == bool(message)
    assert message in "".join(lines)


def test_the_known_deviations_of_built_in_candidates_can_be_read_and_name_candidates() -> None:
    waivers = builtin_waivers()
    assert {waiver.tap for waiver in waivers} >= {"moe.expert_gate", "moe.expert_hidden", "embedding"}
    assert all(any(waivers_of([waiver], name) for name in builtin_names()) for waiver in waivers)
