from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from grok_conformance.reference import checkpoint
from grok_conformance.reference.parameters import Params
from tests.reference.checkpoint.tiny_checkpoints import CONFIG, random_params


@pytest.fixture(scope="session")
def params() -> Params:
    """The weights of a model of 12 layers."""
    return random_params(CONFIG)


@pytest.fixture(scope="session")
def written(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ckpt-0 with these weights, for reading only."""
    return checkpoint.save(tmp_path_factory.mktemp("written"), CONFIG, params)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the folder, for spoiling."""
    return Path(shutil.copytree(written, tmp_path / "ckpt-0"))
