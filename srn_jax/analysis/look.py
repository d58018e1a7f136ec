"""How figures look: size, type, files, language; Matplotlib's own settings stay as they are."""

import io
import json
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from srn_jax.analysis import fonts
from srn_jax.analysis.results import write_atomically
from srn_jax.analysis.words import words_of
from srn_jax.errors import UserError, warn_once

FORMATS = ("pdf", "png", "svg")
SMALLEST_TYPE = 6.5  # points
NARROWEST = 1.5  # inches, in which a figure has room beside its labels
PNG_DPI = 150
FASTER: dict[str, Any] = {"png": {"pil_kwargs": {"compress_level": 1}}}  # and a tenth larger
UNDATED: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
MISSING = "Glyph .* missing from font"  # Matplotlib's words for a character that becomes a box
# Of a legend, in units of its type's size: a typical letter, a line of text, the drawn line.
LETTER_WIDTH, LINE_HEIGHT, HANDLE_WIDTH = 0.56, 1.6, 5.0
CHINESE: dict[str, Any] = json.loads(
    Path(__file__).with_name("chinese.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Look:
    """What a reader may choose about figures.

    Raises `UserError` for a choice that cannot be had, a language without a font among them.
    """

    width: float | None = None  # inches; None is each figure's own
    formats: tuple[str, ...] = ("pdf", "png")
    title: str | None = None  # above every figure
    language: str = "en"  # or zh

    def __post_init__(self) -> None:
        if self.width is not None and not NARROWEST <= self.width <= 100:
            wanted = f"a number of inches from {NARROWEST} to 100"
            raise UserError(f"--width must be {wanted}, got {self.width:g}")
        if not self.formats or not set(self.formats) <= set(FORMATS):
            got = " ".join(self.formats) or "none"
            raise UserError(f"--format must be one or more of {', '.join(FORMATS)}, got {got}")
        if self.language not in ("en", "zh"):
            raise UserError(f"--lang must be en or zh, got {self.language}")
        words_of(self.title or "", "--title")
        if self.language == "zh":
            chinese_font()

    def say(self, words: str, **values: Any) -> str:
        """Words of a figure in its language, with values in their places."""
        if self.language == "zh":
            words = in_chinese(words)
        # A name may have braces, and dollar signs, of its own.
        return words_of(words.format(**values) if values else words)

    @contextmanager
    def applied(self, width: float, ratio: float, type_size: float = 10) -> Iterator[Figure]:
        """An empty figure, and Matplotlib's settings while it is drawn.

        It is `width` inches wide, or what the reader wants, and `ratio` times as high. Type, of
        `type_size` points at that width, grows with the square root of what the reader wants: it
        can be read in a narrow column and is not too large on a slide. So do lines and markers.
        """
        wide = self.width or width
        scale = math.sqrt(wide / width)
        settings: Any = {
            "font.size": max(SMALLEST_TYPE, type_size * scale),
            "lines.linewidth": 1.8 * scale,
            "lines.markersize": 6 * scale,
            "errorbar.capsize": 3 * scale,
            "axes.titlesize": "medium",
            "legend.fontsize": "small",
            "legend.handlelength": 3.2,
            "figure.autolayout": False,
            "figure.constrained_layout.use": False,
        }
        if self.language == "zh":
            settings |= {"font.family": [chinese_font(), fonts.WHOLE], "axes.unicode_minus": False}
        else:  # where a Chinese font is for a user's own words
            settings["font.family"] = [*fonts.families(), *chinese_fonts()[:1]]
        with matplotlib.rc_context(settings):
            figure = Figure(figsize=(wide, ratio * wide), dpi=PNG_DPI, layout="constrained")
            FigureCanvasAgg(figure)
            if self.title:
                figure.suptitle(words_of(self.title), wrap=True)
            yield figure

    @contextmanager
    def axes(
        self, width: float, ratio: float, type_size: float = 10
    ) -> Iterator[tuple[Figure, Axes]]:
        """The same with its only axes."""
        with self.applied(width, ratio, type_size) as figure:
            yield figure, figure.add_subplot()


DEFAULT_LOOK = Look()


def in_chinese(words: str) -> str:
    """Words of a figure in Chinese, if they are known; `symbol 2`, one of several, is as well."""
    known = CHINESE["words"]
    word, _, number = words.rpartition(" ")
    if words not in known and word in known and number.isdecimal():
        return f"{known[word]} {number}"
    return known.get(words, words)


def chinese_fonts() -> list[str]:
    """The names of installed fonts with Chinese characters, the best first."""
    installed = set(font_manager.get_font_names())
    return [name for name in CHINESE["fonts"] if name in installed]


def chinese_font() -> str:
    """The best of them; raises `UserError` for none."""
    if found := chinese_fonts():
        return found[0]
    raise UserError(
        "--lang zh needs a font with Chinese characters and none was found, "
        f"{how_to_install()}, or leave out --lang"
    )


def how_to_install() -> str:
    """What to do for Chinese characters; Matplotlib does not look for new fonts by itself."""
    listed = Path(matplotlib.get_cachedir()) / "fontlist-*.json"
    return f"install one such as Noto Sans CJK SC and delete Matplotlib's list of fonts, {listed}"


@contextmanager
def boxes_told() -> Iterator[None]:
    """One line, once, for all characters that no font has; Matplotlib warns of each of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", MISSING)
        yield
    for one in caught:
        if re.match(MISSING, str(one.message)):
            warn_once(
                "a title or label has characters that are in no font found and become boxes; for "
                f"Chinese {how_to_install()}"
            )
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def legend_below(figure: Figure, title: str = "") -> None:
    """Put one legend of all axes below them, where it hides nothing, in columns that fit.

    The figure grows by its height. Call it within `Look.applied`.
    """
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    letter = font_manager.FontProperties(size="small").get_size_in_points() / 72  # inches
    lines = [line for label in entries for line in label.split("\n")]
    widest = max((sum(1 + (ord(c) > 0x2E80) for c in line) for line in lines), default=1)
    fit = figure.get_figwidth() / letter / (LETTER_WIDTH * widest + HANDLE_WIDTH)
    columns = int(np.clip(fit, 1, 4))
    deep = len(lines) / columns + bool(title)
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * letter * deep)
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    where |= {"title": title, "title_fontsize": "small"}
    legend = figure.legend(list(entries.values()), list(entries), **where)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(None)  # points may be too faint to see one by one


def save_figure(figure: Figure, stem: Path, look: Look = DEFAULT_LOOK) -> list[Path]:
    """Write a figure in each format, without a date: the same figure is the same bytes.

    The layout is solved once and holds for all formats. Fonts in a PDF are TrueType, since venues
    refuse Matplotlib's default, Type 3.
    """
    paths = []
    settings: Any = {"pdf.fonttype": 42, "svg.hashsalt": "srn_jax"}
    with matplotlib.rc_context(settings), boxes_told():
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)
        for kind in look.formats:
            buffer = io.BytesIO()
            options = {"metadata": UNDATED.get(kind), **FASTER.get(kind, {})}
            figure.savefig(buffer, format=kind, dpi=PNG_DPI, **options)
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            write_atomically(paths[-1], buffer.getvalue())
    return paths
