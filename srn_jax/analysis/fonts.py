"""The font of the figures: Matplotlib's own, DejaVu Sans, cut down to the Latin letters.

A PDF holds the characters that it shows. To pick them out Matplotlib reads the whole font, 6,000
characters, for every file, and that took more than half of the time in which a file is written. So
they are picked out of a copy that has 350. What it does not have comes from the whole font. The
copy is made once and kept where Matplotlib keeps its list of fonts.
"""

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

import fontTools
import matplotlib
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
    """The family of the copy, which is made if there is none yet."""
    whole = Path(font_manager.findfont(WHOLE))
    made_of = whole.read_bytes() + repr((CHARACTERS, fontTools.version)).encode()
    name = f"srn_jax-{hashlib.sha256(made_of).hexdigest()[:16]}.ttf"
    path = Path(matplotlib.get_cachedir()) / name
    if not path.exists():
        make_copy(whole, path)
    font_manager.fontManager.addfont(path)
    return SHORT


def make_copy(whole: Path, path: Path) -> None:
    """Write the copy of a font; another process may do the same at the same time."""
    options = subset.Options()
    options.layout_features = []
    options.legacy_kern = True  # Matplotlib reads no other
    options.name_IDs = ["*"]
    options.glyph_names = options.notdef_outline = True
    options.drop_tables += ["FFTM"]  # FontForge's date
    font = subset.load_font(whole, options)
    with font:
        picked = subset.Subsetter(options)
        picked.populate(unicodes=CHARACTERS)
        picked.subset(font)
        for record in font["name"].names:
            if record.nameID in (1, 16):  # the family
                record.string = SHORT
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
        with os.fdopen(handle, "wb") as file:
            font.save(file)
    os.replace(partial, path)
