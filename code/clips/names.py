"""What counts as the same name or label, however programs spell it."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

# White space, and what has no width: joiners, marks of direction and of byte order.
INVISIBLE = "[\\s\0\xad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
_AT_ENDS = re.compile(f"^{INVISIBLE}+|{INVISIBLE}+$")


def strip(text: str) -> str:
    """Without what cannot be seen at its ends."""
    return _AT_ENDS.sub("", text)


def same(text: str) -> str:
    """One spelling: "ö" is one character in most tables, two on some disks."""
    return unicodedata.normalize("NFC", strip(text))


def shown(text: str) -> str:
    """For messages: on one line, and with what cannot be seen."""
    return text if text and text.isprintable() else repr(text)


def nearest(name: str, names: Iterable[str], cutoff: float = 0) -> str:
    """ " (nearest: NAME)", or nothing if none is as near as that; 1 is the same."""
    found = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return "".join(f" (nearest: {shown(near)})" for near in found)
