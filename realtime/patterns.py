"""Patterns of names, with stars and with placeholders that stand for what a user has.

``board-{user}`` is the user's own board, ``team-{claims.team}-*`` everything of any team that a claim names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any

from realtime.auth import ANONYMOUS, Identity

__all__ = ["Fill", "Pieces", "fits", "has_claim", "pieces_of"]

#: Of the roles or the list in a claim that stand for a placeholder, as many are looked at.
MAX_VALUES = 1000

#: A bool is none, though it is an int to Python.
_FILLING = (str, int)
_LISTS = (list, tuple, set, frozenset)
Fill = Callable[[Identity], Iterable[str]]
#: A pattern taken apart: literal text, None for a star, or what gives the texts of which one has to stand there.
Pieces = tuple[str | Fill | None, ...]
_piece = re.compile(r"\*|\{[^{}]*\}|[{}]|[^*{}]+")


def pieces_of(pattern: str) -> Pieces:
    """A pattern taken apart. Raises `ValueError`."""
    pieces: list[str | Fill | None] = []
    for text in _piece.findall(pattern):
        if text[0] not in "*{}":
            pieces.append(text)
        elif text == "*":
            pieces.append(None)
        elif text == "{user}":
            pieces.append(_user)
        elif text == "{role}":
            pieces.append(_roles)
        elif text.startswith("{claims.") and text != "{claims.}":
            pieces.append(partial(_claimed, path=text[len("{claims.") : -1]))
        else:
            raise ValueError(f"{text} must be one of {{user}}, {{role}}, {{claims.<path>}}")
    return tuple(pieces)


def fits(pieces: Iterable[str | Fill | None], text: str, identity: Identity = ANONYMOUS) -> bool:
    """Whether the pieces, one after the other, are the whole text.

    Keeps all the places that the pieces so far can reach, and never tries one twice: the work grows with the pieces
    times the length of the text, however many stars there are.
    """
    reached: Collection[int] = (0,)
    for piece in pieces:
        if piece is None:
            reached = range(min(reached), len(text) + 1)
            continue
        words = [word for word in ((piece,) if isinstance(piece, str) else piece(identity)) if word in text]
        if not words:
            return False
        reached = {place + len(word) for word in words for place in reached if text.startswith(word, place)}
        if not reached:
            return False
    return len(text) in reached


# What stands for a placeholder is never the empty text: that would make ``room:{user}*`` every room.


def _user(identity: Identity) -> Iterable[str]:
    return (identity.user,) if identity.user else ()


def _roles(identity: Identity) -> Iterable[str]:
    return (role for role in islice(identity.roles, MAX_VALUES) if role)


def _claimed(identity: Identity, *, path: str) -> Iterable[str]:
    return [
        str(value) for value in islice(_claim(identity, path), MAX_VALUES) if type(value) in _FILLING and value != ""
    ]


def has_claim(identity: Identity, path: str, wanted: object) -> bool:
    """Whether a claim has this value, or a list in which it is."""
    # To Python, True is 1.
    for value in _claim(identity, path):
        if value == wanted and isinstance(value, bool) == isinstance(wanted, bool):
            return True
    return False


def _claim(identity: Identity, path: str) -> Iterable[Any]:
    """The values of a claim: those in it if it is a list, or itself; none where there is no such claim."""
    found: Any = identity.claims
    # Identity providers call claims by URLs, so a name may itself have dots.
    for name in (path,) if path in found else path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return ()
        found = found[name]
    return found if isinstance(found, _LISTS) else (found,)
