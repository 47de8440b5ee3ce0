"""Distances between two large captures: none to itself, and that of a token which moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large import canonical, store
from grok_conformance.harness.large.capture import capture
from grok_conformance.harness.large.distance import distances
from grok_conformance.harness.large.forms import reduce_taps
from grok_conformance.harness.large.plan import Plan
from tests.harness.large import tiny_capture
from tests.harness.large.tiny_capture import make_plan

STAGE = "layers.00"


@pytest.fixture
def captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Plan]:
    monkeypatch.setattr(canonical, "run", tiny_capture.run)
    plan = make_plan()
    capture(tmp_path / "golden", plan, tmp_path)
    return tmp_path / "golden", plan


def test_a_capture_is_at_no_distance_from_itself(captured: tuple[Path, Plan]) -> None:
    assert {(d.relative, d.norm, d.num_nonfinite) for d in distances(captured, captured, STAGE)} == {(0.0, 0.0, 0)}


def test_one_token_twice_as_large_is_at_distance_1_and_named(captured: tuple[Path, Plan], tmp_path: Path) -> None:
    golden, plan = captured
    taps = tuple(tiny_capture.taps_of(plan, STAGE, call) for call in range(len(plan.calls)))
    for call, made in enumerate(taps):
        made[f"{STAGE}.output"] = np.array(store.read_stage(golden, STAGE)[f"call{call}/{STAGE}.output"])
    taps[0][f"{STAGE}.moe.norm"][1, 2] *= 2
    (tmp_path / "port").mkdir()
    store.begin(tmp_path / "port", plan)
    store.write_stage(tmp_path / "port", STAGE, None, reduce_taps(plan, taps), [])
    moved = [d for d in distances((tmp_path / "port", plan), captured, STAGE) if d.relative]
    assert [(d.tap, d.call, d.index) for d in moved] == [(f"{STAGE}.moe.norm", 0, (1, 2))]
    assert moved[0].relative == pytest.approx(1.0)


def test_captures_of_different_things_are_not_compared(captured: tuple[Path, Plan]) -> None:
    golden, _ = captured
    with pytest.raises(FileError, match="captured with another seed"):
        list(distances((golden, make_plan(seed=3)), captured, STAGE))
