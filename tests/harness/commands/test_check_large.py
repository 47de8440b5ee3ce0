"""`check-large`: a capture is verified stage by stage, and compared with another of its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands.check_large import describe, other_platform
from grok_conformance.harness.large import canonical
from grok_conformance.harness.large.capture import capture
from grok_conformance.harness.measure.comparison import Comparison
from tests.harness.large import tiny_capture
from tests.harness.large.tiny_capture import make_plan


@pytest.fixture
def captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(canonical, "run", tiny_capture.run)
    capture(tmp_path / "golden", make_plan(), tmp_path)
    return tmp_path / "golden"


def test_without_weights_every_digest_is_verified(captured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-large", str(captured)]) == 0
    assert "every tensor of" in capsys.readouterr().out
    (captured / "layers.01.json").write_text("{}")
    assert main(["check-large", str(captured)]) == 2
    assert "layers.01.json: missing or altered" in capsys.readouterr().err


def test_a_capture_compared_with_itself_is_at_no_distance(captured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-large", str(captured), "--against", str(captured), "--layers", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["moe.norm", "0", "norms", "0"] in [row[:4] for row in rows]
    assert other_platform(captured, captured) == []


def test_the_worst_comparison_of_an_operation_is_told_and_every_tap_that_fails() -> None:
    good = Comparison(0, "layers.00.moe.norm", 9, tail=0.5, bulk=0.5)
    bad = Comparison(0, "layers.01.moe.norm", 9, tail=2.0, bulk=0.5, index=(0, 1), observed=1.5, exact=1.25)
    worst, failing = describe([good, bad])
    assert worst.split() == ["moe.norm", "FAIL", "measured", "/", "allowed", "2"]
    assert failing == "call 0, layers.01.moe.norm: 2 times the fence at [0, 1]: observed 1.5, exact 1.25"
