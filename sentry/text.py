# SPDX-License-Identifier: Apache-2.0
"""Untrusted text, made safe to show: file, source and identity names may hold escape sequences or line breaks."""

from __future__ import annotations

import unicodedata

# Control, format (bidirectional overrides, zero-width), surrogate, private, unassigned; line and paragraph separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# Characters of other categories that show nothing: fillers, the blank Braille pattern, variation selectors.
_BLANK = frozenset(
    (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2800, 0x3164, *range(0xFE00, 0xFE10), 0xFFA0)
)


def escape(text: str) -> str:
    """Return the text with every character that a terminal could act on, or hide, spelled out as in Python.

    The result never contains a line break, and two different names never look the same because of hidden characters.
    """
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    code = ord(character)
    blank = code in _BLANK or 0xE0100 <= code <= 0xE01EF  # (the supplementary variation selectors)
    if blank or unicodedata.category(character) in _HIDDEN or (character.isspace() and character != " "):
        return character.encode("unicode_escape").decode("ascii")
    return character


def join_names(names: tuple[str, ...], *, limit: int = 8) -> str:
    """List names for a message, the first few of many."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def file_size(nbytes: int) -> str:
    """Write a size in decimal units with three digits, as disks and networks are sold: 90.9 MB."""
    size = float(nbytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{nbytes} bytes" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB" if size < 1000 else f"{size:.0f} TB"


def visible(message: str) -> str:
    """Return a message with hidden characters spelled out, as a last line of defence: backslashes stay as they are."""
    return "".join(character if character == "\\" else _escape_character(character) for character in message)
