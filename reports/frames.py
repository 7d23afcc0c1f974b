"""DataFrames of which a column's type follows from the column alone, and never from what happens to be missing.

Whole numbers are `Int64` (or `Int32`), truth values `boolean`, both with `<NA>`; numbers `float64`, where NaN is
missing; times are UTC; a list is a tuple, by which rows can be grouped.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types

if TYPE_CHECKING:
    import pandas as pd


def typed_frame(table: pa.Table) -> pd.DataFrame:
    """The table as a pandas DataFrame."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=_extension, ignore_metadata=True)
    for place, kind in enumerate(table.schema.types):
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            frame.isetitem(place, frame.iloc[:, place].map(_tuple).astype(object).array)
    return frame


def with_frame_types(table: pa.Table) -> pa.Table:
    """The table with a note to `pandas.read_parquet`, which then finds these types again. Nothing else changes."""
    if len(set(table.column_names)) < table.num_columns:
        return table  # pandas reads no such file
    frame = typed_frame(table.slice(0, 0))
    note = json.loads(pa.Schema.from_pandas(frame, preserve_index=False).metadata[b"pandas"])
    kept = {name: value for name, value in note.items() if not name.endswith("version") and name != "creator"}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), b"pandas": json.dumps(kept).encode()})


def texts_of(column: pd.Series) -> list[str]:
    """The values of a column as text. Lists are arrays there, and an array takes long to say what it holds."""
    import numpy as np

    arrays: dict[bytes, str] = {}
    texts = []
    for value in column:
        if isinstance(value, np.ndarray):
            key = value.tobytes()
            if key not in arrays:
                arrays[key] = str(value)
            texts.append(arrays[key])
        else:
            texts.append(str(value))
    return texts


def _extension(kind: pa.DataType) -> Any:
    """The type of pandas for a type of Arrow; None is its own choice."""
    import pandas as pd

    whole = {
        pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(), pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype(),
        pa.uint32(): pd.UInt32Dtype(), pa.uint64(): pd.UInt64Dtype(),
    }  # fmt: skip
    return pd.BooleanDtype() if pa.types.is_boolean(kind) else whole.get(kind)


def _tuple(value: Any) -> Any:
    return None if value is None else tuple(value.tolist())
