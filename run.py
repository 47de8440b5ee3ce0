"""`python run.py`: sample from Grok-1 on a test input (SPEC §6), after `pip install -r requirements.txt`.

Loads `checkpoint/ckpt-0` if it is there, and says how to get it if it is not. Options: `python run.py --help`.
"""

import sys

from grok_conformance.reference.__main__ import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error.name} is not installed: pip install -r requirements.txt\n")
        sys.exit(2)
