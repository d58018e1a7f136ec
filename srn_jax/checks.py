"""What a setting may be: checks of one value, each of which raises `UserError` by its name."""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from srn_jax.errors import UserError

OWN = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")  # mine.py:Mine

Check = Callable[[str, Any], None]


def shown(value: Any) -> str:
    """A value as it may stand in an error message: on one line, and not long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # more digits than Python writes
        return "one of thousands of digits"
    return text if len(text) <= 200 else text[:200] + "..."


def whole(low: int, high: int) -> Check:
    """A check that a value is an integer in low..high, both included."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            wanted = f"a whole number from {low} to {high}"
            raise UserError(f"{name} must be {wanted}, got {shown(value)}")

    return check


def positive(high: float) -> Check:
    """A check that a value is a finite number above 0 and at most `high`."""

    def check(name: str, value: Any) -> None:
        if not is_number(value) or not 0 < value <= high:
            wanted = f"a number above 0 and at most {high:g}"
            raise UserError(f"{name} must be {wanted}, got {shown(value)}")

    return check


def between(low: float, high: float) -> Check:
    """A check that a value is a number in low..high, both included."""

    def check(name: str, value: Any) -> None:
        if not is_number(value) or not low <= value <= high:
            wanted = f"a number from {low:g} to {high:g}"
            raise UserError(f"{name} must be {wanted}, got {shown(value)}")

    return check


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    if isinstance(value, int):  # of any size: a float could not hold it
        return not isinstance(value, bool)
    return isinstance(value, float) and math.isfinite(value)


def one_of(*choices: str) -> Check:
    """A check that a value is one of the given words."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}")

    return check


def one_of_or_own(*choices: str) -> Check:
    """A check that a value is one of the given words, or a class in a file of the user's."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or not (value in choices or OWN.fullmatch(value)):
            expected = f"one of {', '.join(choices)}, or a class of yours as FILE.py:NAME"
            raise UserError(f"{name} must be {expected}, got {shown(value)}")

    return check


def switch(name: str, value: Any) -> None:
    """A check that a value is True or False."""
    if not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, got {shown(value)}")


def or_none(check: Check) -> Check:
    """A check that lets None through."""
    return lambda name, value: None if value is None else check(name, value)


def check_list(name: str, values: tuple[Any, ...], check: Check) -> None:
    """Raise `UserError` for a list that is empty, repeats a value or holds a bad one."""
    if not values:
        raise UserError(f"{name} is empty, expected at least one value")
    for value in values:
        check(name, value)
    repeated = sorted(value for value, times in Counter(values).items() if times > 1)
    if repeated:
        raise UserError(f"{name} names {repeated[0]} more than once, expected different values")
