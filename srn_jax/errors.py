"""A user's mistake as one line, and warnings as one line."""

import sys
from functools import lru_cache
from typing import Any


class UserError(ValueError):
    """A mistake of the user's: one line that says what was wrong, what was expected, what to do.

    Names of arguments stand in backquotes; the command line turns those into its options.
    """


def warn(message: str) -> None:
    """Print one line about something that went wrong and stops nothing, on standard error."""
    print("warning:", message, file=sys.stderr, flush=True)


warn_once = lru_cache(maxsize=256)(warn)  # once in this process for each message


def shown(value: Any) -> str:
    """A value as it may stand in an error message: on one line, and not long."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # more digits than Python writes, or a class that cannot be shown
        text = f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= 200 else text[:200] + "..."
