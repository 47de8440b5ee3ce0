"""`python -m grok_conformance list`: what there is, one name a line with what it means."""

from __future__ import annotations

import argparse
import ast
import fnmatch
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from grok_conformance.harness.commands import PASS
from grok_conformance.harness.contract.taps import GOLDEN, tap_specs
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.running.registry import CANDIDATES_DIR, builtin_names


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("what", type=known_table, metavar="WHAT", help=", ".join(TABLES))
    parser.add_argument("pattern", nargs="?", default="*", metavar="GLOB", help="only the names that match")
    parser.add_argument(
        "--golden", type=Path, default=GOLDEN, metavar="DIR", help="the golden set (default: golden/v1)"
    )


def known_table(what: str) -> str:
    """Return the name of a table as it is; raises ArgumentTypeError for one that there is not."""
    if what not in TABLES:
        raise argparse.ArgumentTypeError(unknown("list", what, TABLES))
    return what


def execute(options: argparse.Namespace) -> int:
    """Print the names and meanings that a glob pattern matches; raises FileError if it matches none."""
    table = TABLES[options.what](options.golden)
    rows = {name: meaning for name, meaning in table.items() if fnmatch.fnmatchcase(name, options.pattern)}
    if not rows:
        raise FileError(unknown(options.what.removesuffix("s"), options.pattern, table))
    width = max(map(len, rows))
    sys.stdout.writelines(f"{name:{width}}  {meaning}".rstrip() + "\n" for name, meaning in rows.items())
    return PASS


def cases(golden: Path) -> dict[str, str]:
    """Return every case of a golden set, of the probes and of the sweeps, and why it exists."""
    from grok_conformance.harness.commands.asked_names import drawn_cases
    from grok_conformance.harness.golden.reading import open_golden, read_reason

    stored = open_golden(golden)
    return {case: read_reason(stored, case) for case in sorted(stored.manifest.cases)} | drawn_cases()


def presets(golden: Path) -> dict[str, str]:
    """Return every preset of a golden set, every probe and sweep, and the sizes of its axes."""
    from grok_conformance.harness.commands.asked_names import drawn_presets, sizes
    from grok_conformance.harness.golden.reading import open_golden, read_config

    stored = open_golden(golden)
    return {name: sizes(read_config(stored, name)) for name in sorted(stored.manifest.presets)} | drawn_presets()


def taps(golden: Path) -> dict[str, str]:
    """Return every tap of the contract: axes, dtype, level and meaning."""
    del golden
    return {
        spec.name: f"[{', '.join(spec.axes)}] {spec.dtype}, level {spec.level}: {spec.meaning}" for spec in tap_specs()
    }


def candidates(golden: Path) -> dict[str, str]:
    """Return every built-in candidate and the first line of its docstring, without importing it."""
    del golden
    return {name: docstring(candidate_file(name)) for name in builtin_names()}


def candidate_file(name: str) -> Path:
    """Return the file of a built-in candidate, a module or a package."""
    module = CANDIDATES_DIR / f"{name}.py"
    return module if module.is_file() else CANDIDATES_DIR / name / "__init__.py"


def docstring(path: Path) -> str:
    """Return the first line of a module's docstring, without importing the module."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def faults(golden: Path) -> dict[str, str]:
    """Return every fault of the table: what is wrong, and the operations at which it is first visible."""
    del golden
    from grok_conformance.harness.faults import ALL_FAULTS

    return {name: f"{fault.title} ({', '.join(fault.operations) or fault.kind})" for name, fault in ALL_FAULTS.items()}


TABLES: Mapping[str, Callable[[Path], dict[str, str]]] = {
    "cases": cases,
    "taps": taps,
    "candidates": candidates,
    "faults": faults,
    "presets": presets,
}
"""What can be listed: name → meaning of everything there is, given the golden set."""
