"""What the command adds to `harness.sessions.capture`: its options passed on, and a line for the changelog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.golden.manifest import Manifest
from grok_conformance.harness.sessions import capture
from tests.harness.tiny_golden import write_tiny


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of a capture that writes a tiny set instead of running the model."""
    asked: dict[str, Any] = {}

    def write(directory: Path, groups: Any, **keywords: Any) -> Manifest:
        asked.update(keywords, groups=groups)
        return write_tiny(directory, replace_ids=("*",))

    monkeypatch.setattr(capture, "capture", write)
    return asked


def test_a_capture_tells_how_much_it_wrote(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capture", "--out", str(tmp_path / "v1"), "--add"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'v1'}: 2 presets, 2 cases\n"
    assert asked["add"]
    assert asked["replace"] == []


def test_what_may_be_replaced_is_told_with_its_reason_as_a_line_for_the_changelog(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--replace", "ties/*", "--replace", "dense/*", "--reason", "a wrong cap fixed"]
    assert main(["capture", "--out", str(tmp_path / "v1"), *arguments]) == 0
    assert asked["replace"] == ["ties/*", "dense/*"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "for CHANGELOG.md: * ties/*, dense/* replaced: a wrong cap fixed"
