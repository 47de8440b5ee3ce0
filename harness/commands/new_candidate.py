"""`python -m grok_conformance new-candidate`: an adapter to fill in."""

from __future__ import annotations

import argparse
import keyword
import sys
from pathlib import Path

from grok_conformance.harness.commands import PASS
from grok_conformance.harness.commands.engines import ENGINES, written_for
from grok_conformance.harness.formats.files import FileError

TEMPLATE = Path(__file__).resolve().parents[1] / "contract" / "template.py"
TEMPLATE_NAME = "my_port"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("name", metavar="NAME", help="the name of the port; NAME.py is written here")
    parser.add_argument(
        "--engine", choices=tuple(ENGINES), help="add conversions from and to this engine, and a line for every tap"
    )


def execute(options: argparse.Namespace) -> int:
    """Write NAME.py, a copy of the template; a file of that name stays as it is."""
    if not options.name.isidentifier() or keyword.iskeyword(options.name):
        raise FileError(f"{options.name!a}: not a name of a Python module: use letters, digits and _")
    path = Path(f"{options.name}.py")
    text = TEMPLATE.read_text(encoding="utf-8").replace(TEMPLATE_NAME, options.name)
    text = written_for(text, options.engine) if options.engine else text
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FileError(f"{path}: exists already, and stays as it is: give another name") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}") from None
    sys.stdout.write(f"{path} is written; its first lines say how to go on, beginning with\n")
    sys.stdout.write(
        f"python -m grok_conformance run --candidate {path} --case 'unequal/prefill/single_token.float32'\n"
    )
    return PASS
