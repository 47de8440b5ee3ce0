"""A golden set as a faulty writer would have left it, and how the audit refuses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.golden.audit import check_golden
from grok_conformance.harness.golden.manifest import MANIFEST_DIGEST, NOISE
from grok_conformance.harness.golden.reading import (
    FixtureError,
)


def refused(directory: Path) -> str:
    """Return the message with which the audit refuses a set; it is one printable line that says how to fix the set."""
    with pytest.raises(FixtureError) as caught:
        check_golden(directory)
    message = str(caught.value)
    assert message.isprintable()
    assert "git checkout" in message
    assert "grok_conformance capture" in message
    return message


def edit_json(directory: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change a JSON file and every digest that vouches for it, as if a faulty writer had written it so."""
    path = directory / name
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if name == MANIFEST:
        (directory / MANIFEST_DIGEST).write_text(f"{sha256}  {MANIFEST}\n")
    elif name == NOISE:
        edit_json(directory, MANIFEST, lambda manifest: manifest.update(noise=sha256))
    else:
        kind, *owner, file = Path(name).parts
        vouch = {Path(file).stem: sha256}
        edit_json(directory, MANIFEST, lambda manifest: manifest[kind]["/".join(owner)].update(vouch))
