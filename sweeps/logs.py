"""How processes write their logs: in UTF-8, and without what a terminal would obey when one prints them."""

from __future__ import annotations

import logging
from pathlib import Path

from qsweep.sweeps.text import clean

FORMAT = "%(asctime)s %(levelname)s %(message)s"


class CleanFormatter(logging.Formatter):
    """Lines with time and level, without escape sequences of whatever text stands in them."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


def log_to(file: str | Path) -> None:
    """Let this process log to a file."""
    handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(CleanFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
