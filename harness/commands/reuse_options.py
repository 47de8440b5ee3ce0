"""The options by which verdicts of earlier runs are taken over, and what they do not go with."""

from __future__ import annotations

import argparse

from grok_conformance.harness.commands.narrow_options import is_in_process
from grok_conformance.harness.formats.files import FileError


def add_reuse_options(parser: argparse.ArgumentParser) -> None:
    """Add whether verdicts of earlier runs are taken over."""
    reuse = parser.add_mutually_exclusive_group()
    reuse.add_argument(
        "--reuse",
        action="store_true",
        help="take over the main job's passes of the last 12 hours, and what those drew, if nothing has changed",
    )
    reuse.add_argument("--fresh", action="store_true", help="judge all again, and keep what passes for --reuse")


def refuse_with_reuse(options: argparse.Namespace) -> None:
    """Raise FileError for what asks for answers, or for a part of a run: no verdict of that is kept."""
    others = {
        "--baseline": options.baseline,
        "--dump": options.dump,
        "--endpoint": options.endpoint,
        "--in-process": is_in_process(options),
        "--keep": options.keep,
        "--last-failed": options.last_failed,
        "--layer": options.layer,
        "--operation": options.operation,
        "--watch": options.watch,
    }
    given = [option for option, is_given in (("--reuse", options.reuse), ("--fresh", options.fresh)) if is_given]
    if asked := [name for name, value in others.items() if value and given]:
        raise FileError(f"{asked[0]} needs answers of its own, and {given[0]} keeps whole verdicts: leave one out")
