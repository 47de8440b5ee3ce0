"""Packages that the machine lacks, installed from wheels that were carried there; no network is used."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

NEEDED: Mapping[str, str] = {
    "absl": "absl-py",
    "fastjsonschema": "fastjsonschema",
    "haiku": "dm-haiku",
    "jax": "jax",
    "jinja2": "jinja2",
    "jmp": "jmp",
    "markdown_it": "markdown-it-py",
    "markupsafe": "markupsafe",
    "ml_dtypes": "ml-dtypes",
    "numpy": "numpy",
    "pytest": "pytest",
    "rich": "rich",
    "tabulate": "tabulate",
    "torch": "torch",
}
"""The modules that the steps import, and the distributions that bring them."""


class MissingError(Exception):
    """Raised where a package is missing and cannot be had; the message is one line."""


def missing_distributions(needed: Mapping[str, str] = NEEDED) -> list[str]:
    """Return the distributions of which no module is found here."""
    return [name for module, name in needed.items() if importlib.util.find_spec(module) is None]


def install_missing(wheels: Path | None, site: Path, needed: Mapping[str, str] = NEEDED) -> Path | None:
    """Install what is missing into a new folder and return it, None where nothing is; raises MissingError."""
    missing = missing_distributions(needed)
    if not missing:
        return None
    names = " ".join(missing)
    if wheels is None:
        raise MissingError(f"{names}: not installed here: give --wheels DIR with a wheel of each")
    if not wheels.is_dir():
        raise MissingError(f"{wheels}: no folder: give --wheels the one that holds the wheels of {names}")
    shutil.rmtree(site, ignore_errors=True)
    ended = subprocess.run(pip_command(wheels, site, missing), capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        said = next(iter(reversed(ended.stderr.splitlines())), "pip failed")
        raise MissingError(f"{wheels}: {said}: carry a wheel of each of {names}")
    return site


def pip_command(wheels: Path, site: Path, missing: Sequence[str]) -> list[str]:
    """Return the command that installs distributions from a folder of wheels alone."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [*install, "--no-index", "--no-deps", "--find-links", str(wheels), "--target", str(site), *missing]
