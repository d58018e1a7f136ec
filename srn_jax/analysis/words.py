r"""A user's words in a figure: which dollar signs are mathematics, and which are dollars.

The rule is Pandoc's: mathematics is between two dollar signs, with no space behind the first, none
before the second and no digit behind it; so `cost $5 to $6` has none. `\$` is always a dollar.
"""

import re
import unicodedata

from srn_jax.errors import UserError

MARKS = re.compile(r"\\\$|(?P<math>\$(?!\s)(?:\\.|[^$\\\n])+(?<!\s)\$(?!\d))|\$")
UNSHOWN = {"Cc", "Cs"}  # Unicode's control characters, and half characters of no text


def check_name(name: str, option: str) -> None:
    """Raise `UserError` for what cannot be the name of a run in figures and tables."""
    if not name.strip() or "\n" in name:
        raise UserError(f"{option}: a name must be one line and not empty, got {name!r}")
    words_of(name, option)


def words_of(text: str, option: str | None = None) -> str:
    """The words in Matplotlib's notation.

    Args:
        text: what the user wrote.
        option: where, if what cannot be read as mathematics is to be refused; otherwise it is
            shown as it is.

    Raises:
        UserError: for what cannot be read, with an option.
    """

    def mark(found: re.Match[str]) -> str:
        part = found[0]
        if part == r"\$" or (found["math"] and is_readable(part)):
            return part
        if found["math"] and option:
            raise UserError(
                f"{option}: {part} cannot be read as mathematics, expected what Matplotlib knows "
                r"of LaTeX, or \$ for a dollar sign"
            )
        return re.sub(r"\\?\$", r"\\$", part)

    if option and UNSHOWN & {*map(unicodedata.category, text.replace("\n", ""))}:
        raise UserError(f"{option}: {text!r} has characters that cannot be shown")
    text = MARKS.sub(mark, text) if "$" in text else text
    return f" {text}" if text.startswith("_") else text  # which a legend would leave out


def is_readable(formula: str) -> bool:
    """Whether Matplotlib can draw a formula."""
    from matplotlib.mathtext import MathTextParser  # most words have no formula

    try:
        MathTextParser("path").parse(formula)
    except ValueError:
        return False
    return True
