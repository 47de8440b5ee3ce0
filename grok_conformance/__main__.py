"""The command line: `python -m grok_conformance`, or `grok-conformance` where the package is installed."""

from __future__ import annotations

import sys

from grok_conformance.harness.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
