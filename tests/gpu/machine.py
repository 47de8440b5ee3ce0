"""Says what machine this is: `python -m tests.gpu.machine --folder DIR`, a step of `tests.gpu.session`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import torch

from grok_conformance.candidates.torch_eager.parameters import device_here
from tests.gpu.results import write_figures
from tests.gpu.steps import NO_GPU

MEANT = {"python": "3.12", "jax": "0.11", "torch": "2.11", "numpy": "2.5"}
"""The versions that the session is meant for."""

PROBE = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


def main() -> int:
    """Write what is here; exit status 4 where an engine has no GPU, unless a dry run wants none."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.machine", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    versions = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    try:
        devices = jax.devices()
    except Exception as error:  # noqa: BLE001 - the platform asked for is not here, which JAX tells in several ways
        print(f"JAX has no GPU: {error!r}")  # noqa: T201
        return NO_GPU
    figures = {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "driver": driver(),
        "processor cores": os.cpu_count(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "other than meant": ", ".join(others(versions)) or "none",
        "JAX computes on": f"{devices[0].platform} ({devices[0].device_kind})",
        "the torch port computes on": device_here().type,
    }
    write_figures(options.folder, figures)
    if options.cpu:
        return 0
    return 0 if devices[0].platform == "gpu" and device_here().type == "cuda" else NO_GPU


def others(versions: Mapping[str, str], meant: Mapping[str, str] = MEANT) -> list[str]:
    """Return what is of another version than meant."""
    wrong = [name for name, start in meant.items() if not f"{versions[name]}.".startswith(f"{start}.")]
    return [f"{name} {versions[name]}" for name in wrong]


def driver() -> str:
    """Return the GPU, its driver and its memory as the driver's own program tells them."""
    if shutil.which(PROBE[0]) is None:
        return "unknown"
    return subprocess.run(PROBE, capture_output=True, text=True, check=False).stdout.strip() or "unknown"  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
