"""`python -m qsweep.workers BUNDLE`: the door to machines that reach no registry."""

from __future__ import annotations

import sys

from qsweep.workers.bundle.command import main

if __name__ == "__main__":
    sys.exit(main())
