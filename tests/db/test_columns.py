"""Columns that are filled without pandas hold what pyarrow's own converters put into them."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from qsweep.db.columns import column, table_of_rows
from qsweep.db.schema import ROW_KINDS

WITHOUT = """
import sys
from pathlib import Path
from qsweep.db.results import ResultStore, table_of
from qsweep.db.rows import Committed
from qsweep.db.schema import ROW_KINDS
store = ResultStore(Path(sys.argv[1]))
for kind in ROW_KINDS:
    store.write(kind, "one", [{"job": "0" * 32, "attempt": 1}])
    found = store.read(kind, table_of([Committed(job="0" * 32, attempt=1, publication="one", kind=ROW_KINDS[kind].of)]))
    assert found.num_rows == 1
assert "pandas" not in sys.modules
"""


def value(kind: pa.DataType, draw: random.Random) -> Any:
    """A value of that kind; now and then None."""
    if draw.random() < 0.2:
        return None
    if pa.types.is_integer(kind):
        most = 2 ** (kind.bit_width - 1)
        return draw.choice([draw.randrange(-most, most), -most, most - 1])
    if pa.types.is_floating(kind):
        return draw.choice([math.nan, math.inf, -0.0, 3, draw.random()])
    if pa.types.is_boolean(kind):
        return draw.random() < 0.5
    if pa.types.is_timestamp(kind):
        return datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC) + timedelta(microseconds=draw.randrange(-(10**16), 10**16))
    if pa.types.is_list(kind):
        return [value(kind.value_type, draw) for _ in range(draw.randrange(4))]
    if pa.types.is_struct(kind):
        return {part.name: value(part.type, draw) for part in kind}
    return draw.choice(["", "a", "ä€𝄞", "long " * 20])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROW_KINDS)
@pytest.mark.parametrize("size", [0, 1, 9, 2049])
def test_a_table_of_rows_is_what_pyarrow_makes_of_them(kind: str, size: int) -> None:
    draw, schema = random.Random(f"{kind} {size}"), ROW_KINDS[kind].columns
    rows = [{one.name: value(one.type, draw) for one in schema if draw.random() < 0.9} for _ in range(size)]
    made = table_of_rows(rows, schema)
    made.validate(full=True)
    assert made.schema == schema
    assert str(made.to_pylist()) == str(
        pa.Table.from_pylist(rows, schema=schema).to_pylist()
    )  # NaN is not equal to NaN


def test_what_a_column_cannot_hold_is_refused() -> None:
    for kind, wrong in ((pa.int32(), 2**31), (pa.int64(), 0.5), (pa.float64(), "1"), (pa.string(), 1)):
        with pytest.raises((TypeError, OverflowError, AttributeError)):
            column([wrong], kind)
    with pytest.raises(TypeError, match="no column of binary"):
        column([b"a"], pa.binary())


def test_results_are_written_and_read_without_pandas(tmp_path: Any) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT, str(tmp_path)], check=True)
