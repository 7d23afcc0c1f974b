"""What qsweep costs, and what a machine makes of it: `python -m benchmarks.NAME` in a checkout.

qsweep need not be installed: its package is the checkout's `src`, here and, by `surroundings`, in processes of these.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"

if str(SOURCE) not in sys.path:
    sys.path.insert(0, str(SOURCE))


def surroundings() -> dict[str, str]:
    """The environment of a process that finds this checkout's qsweep, benchmarks and tests."""
    search = os.pathsep.join(filter(None, [str(ROOT), str(SOURCE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search}
