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


def must_be(wanted: str, fits: Callable[[Any], bool]) -> Check:
    """A check that a value fits; `wanted` says in words what does."""

    def check(name: str, value: Any) -> None:
        if not fits(value):
            raise UserError(f"{name} must be {wanted}, got {shown(value)}")

    return check


def whole(low: int, high: int) -> Check:
    """A check that a value is an integer in low..high, both included."""
    wanted = f"a whole number from {low} to {high}"
    return must_be(wanted, lambda v: isinstance(v, int) and is_number(v) and low <= v <= high)


def positive(high: float) -> Check:
    """A check that a value is a finite number above 0 and at most `high`."""
    wanted = f"a number above 0 and at most {high:g}"
    return must_be(wanted, lambda value: is_number(value) and 0 < value <= high)


def between(low: float, high: float) -> Check:
    """A check that a value is a number in low..high, both included."""
    wanted = f"a number from {low:g} to {high:g}"
    return must_be(wanted, lambda value: is_number(value) and low <= value <= high)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    if isinstance(value, int):  # of any size: a float could not hold it
        return not isinstance(value, bool)
    return isinstance(value, float) and math.isfinite(value)


def one_of(*choices: str) -> Check:
    """A check that a value is one of the given words."""
    wanted = f"one of {', '.join(choices)}"
    return must_be(wanted, lambda value: isinstance(value, str) and value in choices)


def one_of_or_own(*choices: str) -> Check:
    """A check that a value is one of the given words, or a class in a file of the user's."""
    return must_be(
        f"one of {', '.join(choices)}, or a class of yours as FILE.py:NAME",
        lambda v: isinstance(v, str) and (v in choices or OWN.fullmatch(v) is not None),
    )


switch = must_be("true or false", lambda value: isinstance(value, bool))


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
