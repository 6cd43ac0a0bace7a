"""Values as settings want them, from a file, the environment or a caller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import urlsplit

__all__ = ["check_cookie_name", "check_origin", "convert"]

_WORDS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


#: RFC 6265, section 4.1.1.
_COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HOST = re.compile(r"[a-z0-9._-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: A page has the scheme that it came by, also where it opens a WebSocket.
_PAGE_SCHEMES = {"ws": "http", "wss": "https"}


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
    if tables and isinstance(value, Mapping):
        raise TypeError("must be a list of tables: in TOML the name of each stands in [[ ]], not in [ ]")
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


def check_origin(text: str) -> None:
    """Raise `ValueError` unless a browser could send this as the origin of a page, or it is a star for every origin."""
    if text == "*":
        return
    normal = _origin(text)
    if normal is None:
        raise ValueError(f"{text!r}: must be * or scheme://host[:port] in ASCII, such as https://app.example.com")
    if text != normal:
        raise ValueError(f"{text!r}: write {normal}, as browsers send it")


def _origin(text: str) -> str | None:
    """The origin of an address, in the one form that there is of it; None for what has none."""
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
        host = f"[{IPv6Address(host)}]" if ":" in host else host
    except ValueError:
        return None
    scheme = _PAGE_SCHEMES.get(parts.scheme, parts.scheme)
    if not scheme or not (host.startswith("[") or _HOST.fullmatch(host)):
        return None
    return f"{scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS.get(scheme)) else f":{port}")


def check_cookie_name(text: str) -> None:
    """Raise `ValueError` for what no cookie can be called."""
    if not _COOKIE_NAME.fullmatch(text):
        raise ValueError("must be of ASCII letters, digits and !#$%&'*+-.^_`|~")
