"""Measures the ports that earlier steps found conforming: `python -m tests.gpu.throughput --folder DIR`.

A step of `tests.gpu.session`: `tests.benchmarks.throughput` over their reports. The published algorithm is not among
them, so that no ratio to it is told.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from unittest import mock

from grok_conformance.harness.report.files import read_report, write_report_json
from tests.benchmarks import throughput
from tests.gpu.results import write_figures

PORTS = ("torch_eager", "jax_grouped", "reference")
ROUNDS = "3"
DTYPE = "bfloat16"


def main() -> int:
    """Measure; exit status 1 where no port has conformed."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.throughput", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    folder = parser.parse_args().folder
    judged = merged(folder)
    if judged is None:
        print("no port has conformed: nothing is measured")  # noqa: T201
        return 1
    words = ["--conformance", str(judged), "--folder", str(folder), "--dtype", DTYPE, "--rounds", ROUNDS]
    said: list[str] = []
    with (
        mock.patch.object(throughput, "record", lambda _title, text, write: said.append(text)),  # noqa: ARG005 - as it is called
        mock.patch.object(sys, "argv", ["throughput", *words]),
    ):
        status = throughput.main()
    tables = dict(zip(("throughput", "times", "load"), said[0].split("\n\n"), strict=True))
    write_figures(folder, tables)
    return status


def merged(folder: Path) -> Path | None:
    """Write the reports of the earlier steps as one, of the candidates that conform; None where there is none."""
    paths = [folder.parent / port / f"{DTYPE}.json" for port in PORTS]
    reports = [read_report(path) for path in paths if path.is_file()]
    candidates = [each for report in reports for each in report["candidates"] if each["status"] == "pass"]
    if not candidates:
        return None
    write_report_json(folder / "conforming.json", {**reports[0], "candidates": candidates})
    return folder / "conforming.json"


if __name__ == "__main__":
    sys.exit(main())
