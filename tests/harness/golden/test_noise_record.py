"""The committed record vouches for this harness, and one that does not is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.contract import GOLDEN_DIR, tap_specs
from grok_conformance.harness.formats.files import FileError, read_json, write_json
from grok_conformance.harness.golden import writing
from grok_conformance.harness.golden.audit import check_golden
from grok_conformance.harness.golden.manifest import NOISE, file_digest, write_manifest
from grok_conformance.harness.golden.noise_record import MIN_RUNS, parameters, record_problems
from grok_conformance.harness.golden.reading import FixtureError, open_golden, read_noise
from grok_conformance.harness.golden.writing import replace_record
from grok_conformance.harness.measure import noise
from tests.harness.tiny_golden import write_tiny

Change = Callable[[Any], object]


def committed() -> Any:
    return read_noise(open_golden(GOLDEN_DIR / "v1"))


def changed(change: Change) -> Any:
    record = copy.deepcopy(committed())
    change(record)
    return record


def test_the_committed_record_vouches_for_this_harness() -> None:
    assert record_problems(committed()) == []


def test_the_committed_record_tells_the_parameters_in_use() -> None:
    found = committed()["parameters"]
    assert float(found["false_alarm_rate"]) == noise.FALSE_ALARM_RATE == 1e-3
    assert float(found["end_to_end_safety"]) == noise.SAFETY
    assert {int(n): float(x) for n, x in found["tail_factor"].items()} == {
        n: pytest.approx(noise.tail_factor(n), rel=1e-5) for n in (10**3, 10**6, 10**9)
    }


def test_every_operation_of_the_contract_was_validated_on_enough_runs() -> None:
    validation = committed()["validation"]
    assert set(validation["worst"]) == {spec.operation for spec in tap_specs()}
    assert min(validation["num_runs"].values()) >= MIN_RUNS == 64
    named = {
        x["variant"] for by_dtype in validation["worst"].values() for row in by_dtype.values() for x in row.values()
    }
    assert named <= set(validation["variants"])


def test_no_operation_is_idle_in_the_validation_but_the_choice_of_experts_where_none_flips() -> None:
    worst = committed()["validation"]["worst"]
    assert float(worst.pop("moe.expert_index")["bfloat16"]["end_to_end"]["ratio"]) > 0
    for operation, by_dtype in worst.items():
        for dtype, by_statistic in by_dtype.items():
            assert any(float(one["ratio"]) > 0 for one in by_statistic.values()), f"{operation} in {dtype}"


@pytest.mark.parametrize("name", parameters())
def test_another_parameter_is_named(name: str) -> None:
    record = changed(lambda record: record["parameters"].update({name: 7}))
    assert record_problems(record) == [f"parameter {name} is 7, this harness has {parameters()[name]!a}"]


def test_a_tolerance_that_is_widened_no_longer_fits_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "SAFETY", 8.0)
    monkeypatch.setattr(noise, "FALSE_ALARM_RATE", 1e-4)
    problems = record_problems(committed())
    assert [problem.split(" is ")[0] for problem in problems] == [
        "parameter false_alarm_rate",
        "parameter tail_factor",
        "parameter end_to_end_safety",
    ]


def bulk_of_keys(record: Any) -> Any:
    return record["validation"]["worst"]["attention.key"]["float32"]["bulk"]


BREACHES: Mapping[str, tuple[Change, str]] = {
    "too few runs": (
        lambda record: record["validation"]["num_runs"].update(bfloat16=63),
        "63 honest runs in bfloat16, expected at least 64",
    ),
    "a failed run": (
        lambda record: record["validation"].update(num_failed=1),
        "1 honest runs failed, expected none",
    ),
    "an operation left out": (
        lambda record: record["validation"]["worst"].pop("router.logits"),
        "operation router.logits was not validated",
    ),
    "an operation of another model": (
        lambda record: record["validation"]["worst"].update(convolution=record["validation"]["worst"]["logits"]),
        "operation 'convolution' is none of taps.json",
    ),
    "a fence that honest runs reach": (
        lambda record: bulk_of_keys(record).update(ratio="1.0", variant="a port"),
        "honest runs reach 1.0 times what is allowed: bulk of attention.key in float32, 'a port'",
    ),
    "a function less exact than its operation allows": (
        lambda record: record["functions"]["tanh"]["measured"].update(jax="6.5"),
        "float32 tanh of 'jax' errs by 6.5 u, 6 are allowed",
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_record_that_does_not_validate_the_model_is_refused(
    breach: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, problem = BREACHES[breach]
    golden = tmp_path / "v1"
    write_tiny(golden)
    write_json(golden / NOISE, changed(change))
    write_manifest(golden, replace(open_golden(golden).manifest, noise=file_digest(golden / NOISE)))
    assert main(["check-golden", str(golden)]) == 2
    message = capsys.readouterr().err
    assert f"{golden / NOISE}: {problem}; restore it" in message
    assert message.count("\n") == 1


def test_a_value_edited_by_hand_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = tmp_path / "v1"
    write_tiny(golden)
    assert main(["check-golden", str(golden)]) == 0
    text = (golden / NOISE).read_text()
    (golden / NOISE).write_text(text.replace('"false_alarm_rate": "0.001"', '"false_alarm_rate": "0.01"'))
    assert main(["check-golden", str(golden)]) == 2
    assert f"{golden / NOISE}: was altered: sha256 " in capsys.readouterr().err


# Writing


def test_a_new_set_carries_the_record_of_this_harness(tmp_path: Path) -> None:
    write_tiny(tmp_path / "v1")
    assert (tmp_path / "v1" / NOISE).read_bytes() == (GOLDEN_DIR / "v1" / NOISE).read_bytes()


def test_a_record_is_replaced_and_nothing_else_changes(tmp_path: Path) -> None:
    golden = tmp_path / "v1"
    before = write_tiny(golden)
    record = changed(lambda record: record["platform"].update(cpu="another"))
    replace_record(golden, record)
    check_golden(golden)
    assert read_json(golden / NOISE) == record
    after = open_golden(golden).manifest
    assert replace(after, noise=before.noise) == before
    assert after.noise != before.noise


def test_an_equal_record_gives_an_equal_set_byte_for_byte(tmp_path: Path) -> None:
    golden = tmp_path / "v1"
    write_tiny(golden)
    before = {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()}
    replace_record(golden, committed())
    assert {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()} == before


def test_a_record_that_does_not_vouch_for_this_harness_is_not_written(tmp_path: Path) -> None:
    golden = tmp_path / "v1"
    before = write_tiny(golden)
    with pytest.raises(FixtureError, match=r"noise\.json: cannot be stored: parameter num_runs is 7"):
        replace_record(golden, changed(lambda record: record["parameters"].update(num_runs=7)))
    with pytest.raises(FixtureError, match=r"noise\.json: cannot be stored: .*\(noise.schema.json\)"):
        replace_record(golden, {})
    check_golden(golden)
    assert open_golden(golden).manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_a_set_is_not_written_without_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "GOLDEN", tmp_path / "v1")
    with pytest.raises(FileError, match=r"v1/noise\.json: cannot be read: No such file"):
        write_tiny(tmp_path / "new")
    assert not list(tmp_path.iterdir())
