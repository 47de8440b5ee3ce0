"""Models written by someone who never heard of the harness, attached by a tap map, judged in processes of their own."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.__main__ import main
from tests.strangers import attached

FOLDER = Path(__file__).parent


def judged(adapter: str, case: str, tmp_path: Path) -> tuple[int, dict[str, Any]]:
    report = tmp_path / "run.json"
    words = ["run", "--candidate", str(FOLDER / adapter), "--case", case, "--json", str(report), "--quiet"]
    return main(words), json.loads(report.read_text())["candidates"][0]


def operations(verdict: dict[str, Any]) -> dict[str, str]:
    return {row["operation"]: row["status"] for row in verdict["operations"]}


def test_a_transformers_style_module_is_judged_operation_by_operation(tmp_path: Path) -> None:
    status, verdict = judged("attached.py", "unequal/prefill/padded_batch.float32", tmp_path)
    assert (status, verdict["status"]) == (0, "pass")
    assert len(operations(verdict)) == 12
    assert set(operations(verdict).values()) == {"pass"}


def test_attaching_takes_fifteen_lines() -> None:
    source = inspect.getsource(attached).splitlines()
    rows = [line for line in source if "TapSource(" in line]
    attachment = [
        line for line in source if any(word in line for word in (" attach(", "self.record()", "map_taps(TAP"))
    ]
    assert len(rows) == len(attached.TAP_MAP)
    assert len(rows) + len(attachment) <= 15


@pytest.mark.parametrize("case", ["square/prefill/padded_batch.float32", "realistic/prefill/near_ties.float32"])
def test_fused_sharded_two_stream_and_ragged_tensors_are_judged_through_the_map_alone(
    case: str, tmp_path: Path
) -> None:
    status, verdict = judged("attached_serving.py", case, tmp_path)
    assert (status, verdict["status"]) == (0, "pass")
    assert set(operations(verdict)) >= {"attention.query", "attention.output", "moe.output", "output", "logits"}


@pytest.mark.parametrize("case", ["unequal/chunked/two_chunks.float32", "unequal/decode/pads_in_cache.float32"])
def test_a_port_of_single_rows_with_a_cache_that_grows_answers_every_kind_of_call(case: str, tmp_path: Path) -> None:
    status, verdict = judged("attached_rows.py", case, tmp_path)
    assert (status, verdict["status"]) == (0, "pass")
    assert {"kv.keys", "kv.values", "logits"} <= set(operations(verdict))
    assert all(each["status"] == "pass" for each in verdict["cases"])


def test_a_fault_behind_the_map_is_found_where_it_is(tmp_path: Path) -> None:
    port = tmp_path / "erf.py"
    lines = ("import os", "os.environ['GELU'] = 'erf'", "from tests.strangers.attached_serving import INFO, load")
    port.write_text("\n".join(lines))
    status, verdict = judged(str(port), "square/prefill/padded_batch.float32", tmp_path)
    assert (status, verdict["status"]) == (1, "fail")
    assert [name for name, found in operations(verdict).items() if found == "fail"] == ["moe.output"]
    (row,) = (row for row in verdict["operations"] if row["operation"] == "moe.output")
    assert row["diagnosis"]["faults"] == ["gelu_erf"]
