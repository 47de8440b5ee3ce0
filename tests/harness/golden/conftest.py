"""A golden set that each test may spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.harness.tiny_golden import write_tiny


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pristine") / "v1"
    write_tiny(directory)
    return directory


@pytest.fixture
def golden(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "v1"))
