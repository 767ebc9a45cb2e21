"""Tables as data: what a program does with a DataFrame without reading its HTML."""

from __future__ import annotations

import math
import sys
from typing import Any

# Above these a table travels as text and HTML only
ROWS_MAX = 5_000
COLUMNS_MAX = 100


def data_of(value: Any) -> dict[str, Any] | None:
    """The columns of a DataFrame by name, as lists; None for anything else, and for one that is too large to travel beside its HTML."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(value, pandas.DataFrame):
        return None
    if len(value) > ROWS_MAX or len(value.columns) > COLUMNS_MAX:
        return None
    columns: dict[str, Any] = {}
    for position, name in enumerate(value.columns):
        columns[str(name)] = [plain(each) for each in value.iloc[:, position].tolist()]
    return columns


def plain(value: Any) -> Any:
    """As JSON has it: numbers, texts, truth; what is not a number is null, times are ISO 8601, all else is its text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "isoformat"):
        return None if value != value else value.isoformat()  # pandas' NaT differs from itself
    if hasattr(value, "item"):
        return plain(value.item())
    return str(value)
