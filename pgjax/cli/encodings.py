"""Standard output in any encoding: a character that the encoding lacks is written in ASCII."""

import codecs
import contextlib
import sys
import unicodedata
from collections.abc import Iterator

IN_ASCII = "pgjax.in_ascii"
"""The name of the error handler, for `str.encode` and for streams."""

_SYMBOLS = {
    **{"∇": "grad ", "∞": "inf", "√": "sqrt", "‖": "||", "±": "+-", "×": "x", "·": "*"},
    **{"≤": "<=", "≥": ">=", "≠": "!=", "−": "-", "–": "-", "—": "-", "→": "->", "…": "..."},
    **{"²": "^2", "³": "^3", "⁻": "^-", "¹": "1", "✓": "+", "✗": "x", "λ": "lambda"},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "│": "|", "─": "-", "━": "-", "╸": "-", "╺": "-"},
}


@contextlib.contextmanager
def any_encoding() -> Iterator[None]:
    """A context in which standard output and standard error accept every character.

    A terminal, a pipe or a file may be ASCII, Latin-1 or a Windows code page, where ∇ and γ would
    end the command with a UnicodeEncodeError instead of its answer.
    """
    streams = [x for x in (sys.stdout, sys.stderr) if hasattr(x, "reconfigure")]
    before = [(stream, stream.errors) for stream in streams]
    _set_errors((stream, IN_ASCII) for stream in streams)
    try:
        yield
    finally:
        _set_errors(before)


def _set_errors(settings: Iterator | list) -> None:
    for stream, errors in settings:
        with contextlib.suppress(OSError, ValueError):  # it flushes: a full disk, a closed stream
            stream.reconfigure(errors=errors)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What is written for the characters that an encoding lacks, and where to go on after them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(map(_spelled, lacking)), error.end


def _spelled(character: str) -> str:
    """A character in ASCII: a symbol or a Greek letter by its name, a letter without its accent."""
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    kind, _, letter = unicodedata.name(character, "").partition(" LETTER ")
    if kind in ("GREEK SMALL", "GREEK CAPITAL"):
        return letter.lower() if kind == "GREEK SMALL" else letter.capitalize()
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or ("" if unicodedata.combining(character) else "?")


codecs.register_error(IN_ASCII, _in_ascii)
