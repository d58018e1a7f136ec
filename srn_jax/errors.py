"""A user's mistake as one line, and warnings as one line."""

import sys
from functools import cache


class UserError(ValueError):
    """A mistake of the user's: one line that says what was wrong, what was expected, what to do."""


def warn(message: str) -> None:
    """Print one line about something that went wrong and stops nothing, on standard error."""
    print("warning:", message, file=sys.stderr, flush=True)


warn_once = cache(warn)  # once in this process for each message
