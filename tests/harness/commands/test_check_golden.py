"""`check-golden`: a sound set is said to be."""

from __future__ import annotations

import pytest

from grok_conformance.harness.__main__ import main


def test_check_golden_says_that_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-golden"]) == 0
    assert "every file, tensor and digest is as the manifest says" in capsys.readouterr().out
