"""The commands of `python -m harness`, one module each: `add_options(parser)` and `execute(options) -> exit status`.

A module is imported only when its command is given, so that the command line starts at once. Adding a command is a row
of `COMMANDS` and its module.
"""

from __future__ import annotations

from collections.abc import Mapping

PASS, NONCONFORMING, BROKEN = 0, 1, 2
"""Exit statuses: pass; a candidate does not conform, is missing or crashed; wrong usage or a broken fixture."""

COMMANDS: Mapping[str, str] = {
    "run": "judge candidates, by default all built-in ones",
    "judge": "judge an answer folder that was written elsewhere",
    "capture": "write golden fixtures with the canonical JAX model",
    "check-golden": "verify every file, tensor and digest of a golden set",
}
"""What each command does, by its name; `check-golden` is the module `check_golden`."""
