"""The font of the figures: Matplotlib's own, DejaVu Sans, cut down to the Latin letters.

A PDF holds the characters that it shows. To pick them out Matplotlib reads the whole font, 6,000
characters, for every file, and that took more than half of the time in which a file is written. So
they are picked out of a copy that has 350. What it does not have comes from the whole font.
"""

import atexit
import os
import tempfile
from functools import cache

from fontTools import subset
from matplotlib import font_manager

WHOLE = "DejaVu Sans"
SHORT = "srn_jax Sans"
CHARACTERS = (*range(0x20, 0x17F), *map(ord, "–—‘’“”…−≤≥≈∂√∞"))  # Latin, and signs of figures


def families() -> list[str]:
    """Matplotlib's `font.family` for figures in Latin letters."""
    return [short_font(), WHOLE]


@cache
def short_font() -> str:
    """The family of the copy, which this process makes when it is first asked for."""
    options = subset.Options()
    options.layout_features = []
    options.legacy_kern = True  # Matplotlib reads no other
    options.name_IDs = ["*"]
    options.glyph_names = options.notdef_outline = True
    options.drop_tables += ["FFTM"]  # FontForge's date
    font = subset.load_font(font_manager.findfont(WHOLE), options)
    with font:
        picked = subset.Subsetter(options)
        picked.populate(unicodes=CHARACTERS)
        picked.subset(font)
        for record in font["name"].names:
            if record.nameID in (1, 16):  # the family
                record.string = SHORT
        handle, path = tempfile.mkstemp(prefix="srn_jax-", suffix=".ttf")
        atexit.register(os.unlink, path)
        with os.fdopen(handle, "wb") as file:
            font.save(file)
    font_manager.fontManager.addfont(path)
    return SHORT
