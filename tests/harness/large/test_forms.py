"""What a form of a capture holds, in bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.large import canonical, store
from grok_conformance.harness.large.capture import capture
from grok_conformance.harness.large.forms import written_bytes
from tests.harness.large import tiny_capture
from tests.harness.large.tiny_capture import make_plan


@pytest.mark.parametrize("form", ["full", "rows", "sketch"])
def test_what_will_be_written_is_what_is_written(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "run", tiny_capture.run)
    plan = make_plan(form=form)
    capture(tmp_path, plan, tmp_path)
    written = [x for stage in plan.stages for x in store.read_stage(tmp_path, stage).values()]
    assert written_bytes(plan) == sum(x.nbytes for x in written)
