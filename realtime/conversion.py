"""Values as settings want them, from a file, the environment or a caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["convert"]

_WORDS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


def convert(value: Any, wanted: str) -> Any:
    """A value from TOML, the environment or a caller as ``wanted``: a setting's type as it is written.

    Raises `TypeError` with what it must be.
    """
    if wanted.startswith("Mapping"):
        if not isinstance(value, Mapping):
            raise TypeError("must be a table")
        return value
    if "None" in wanted and (value is None or (value == "off" and wanted.startswith(("int", "float")))):
        return None  # "off", as neither a file nor the environment has a word for nothing
    if wanted.startswith("tuple"):
        return _tuple(value, tables="Mapping" in wanted)
    if wanted.startswith("bool"):
        flag = value if isinstance(value, bool) else _WORDS.get(str(value).lower())
        if flag is None:
            raise TypeError("must be true or false")
        return flag
    if wanted.startswith("int"):
        return _number(value, int, "must be a whole number")
    if wanted.startswith("float"):
        return _number(value, float, "must be a number")
    if not isinstance(value, str):
        raise TypeError("must be a text")
    return value


def _tuple(value: Any, *, tables: bool) -> tuple[Any, ...]:
    items = value.split(",") if isinstance(value, str) and not tables else value
    wanted = Mapping if tables else str
    if not isinstance(items, list | tuple) or not all(isinstance(item, wanted) for item in items):
        raise TypeError(f"must be a list of {'tables' if tables else 'texts'}")
    return tuple(items) if tables else tuple(item.strip() for item in items if item.strip())


def _number(value: Any, number: type[int | float], fault: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (str, int) if number is int else (str, int, float)):
        raise TypeError(fault)
    try:
        return number(value)
    except (ValueError, OverflowError):
        raise TypeError(fault) from None
