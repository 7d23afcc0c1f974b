"""Arrow without numpy and pandas: to import them takes longer than most answers."""

from __future__ import annotations

import sys
from collections.abc import Collection
from importlib.abc import MetaPathFinder


class _Hidden(MetaPathFinder):
    """Finds that there are no such packages."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname in self._names:
            raise ModuleNotFoundError(fullname, name=fullname)


def spare_pandas() -> None:
    """Let Arrow believe that there is no pandas, until somebody wants a DataFrame: then it looks again."""
    _import_without("pandas")


def spare_numpy() -> None:
    """Let Arrow do without numpy and pandas, for good: only where this process makes no array of its tables."""
    _import_without("pandas", "numpy")


def _import_without(*names: str) -> None:
    """Import what answers use of Arrow while those of the packages that are not there yet can't be found."""
    hidden = _Hidden([name for name in names if name not in sys.modules])
    sys.meta_path.insert(0, hidden)
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.parquet

        pa.array([0])  # here it looks for pandas
    finally:
        sys.meta_path.remove(hidden)
