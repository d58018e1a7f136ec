"""How figures look: size, type, files; Matplotlib's own settings stay as they are."""

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple

from srn_jax.errors import UserError, warn_once
from srn_jax.files import write_atomically

FORMATS = ("pdf", "png", "svg")
SMALLEST_TYPE = 6.5  # points
NARROWEST = 1.5  # inches, in which a figure has room beside its labels
PNG_DPI = 150
FASTER: dict[str, Any] = {"png": {"pil_kwargs": {"compress_level": 1}}}  # and a tenth larger
UNDATED: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
MISSING = "Glyph .* missing from"  # Matplotlib's words for a character that becomes a box
PAPER = Path(__file__).with_name("paper.mplstyle")
LETTER, HANDLE = 0.6, 5.0  # widths of a letter and of a drawn line, in units of a legend's type


@dataclass(frozen=True)
class Look:
    """What a reader may choose about figures; raises `UserError` for what cannot be had."""

    width: float | None = None  # inches; None is each figure's own
    formats: tuple[str, ...] = ("pdf", "png")
    title: str | None = None  # above every figure
    style: str | Path | None = None  # a file of Matplotlib's settings, which come last

    def __post_init__(self) -> None:
        if self.width is not None and not NARROWEST <= self.width <= 100:
            wanted = f"a number of inches from {NARROWEST} to 100"
            raise UserError(f"`width` must be {wanted}, got {self.width:g}")
        if not self.formats or not set(self.formats) <= set(FORMATS):
            got = " ".join(map(str, self.formats)) or "none"
            raise UserError(f"`formats` must be one or more of {', '.join(FORMATS)}, got {got}")
        if self.style is not None:
            settings_in(self.style)

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
            **settings_in(PAPER),
            "font.size": max(SMALLEST_TYPE, type_size * scale),
            "lines.linewidth": 1.6 * scale,
            "lines.markersize": 5.5 * scale,
            "errorbar.capsize": 2.5 * scale,
            **({} if self.style is None else settings_in(self.style)),
        }
        with matplotlib.rc_context(settings):
            figure = Figure(figsize=(wide, ratio * wide), dpi=PNG_DPI, layout="constrained")
            FigureCanvasAgg(figure)
            if self.title:
                figure.suptitle(self.title, wrap=True)
            yield figure

    @contextmanager
    def axes(
        self, width: float, ratio: float, type_size: float = 10
    ) -> Iterator[tuple[Figure, Axes]]:
        """The same with its only axes."""
        with self.applied(width, ratio, type_size) as figure:
            yield figure, figure.add_subplot()


DEFAULT_LOOK = Look()


def settings_in(path: str | Path) -> dict[str, Any]:
    """Matplotlib's settings in a style sheet; raises `UserError` for what is none."""
    try:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            name = line.partition("#")[0].partition(":")[0].strip()
            if name and name not in matplotlib.rcParams:  # which Matplotlib tells in ten lines
                raise ValueError(f"it has no setting {name[:40]}")
        found: Any = matplotlib.rc_params_from_file(path, use_default_template=False)
        return dict(found)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"`style` {path}: not a style sheet of Matplotlib ({reason})") from None


def legend_below(figure: Figure, title: str = "") -> None:
    """Put one legend of all axes below them, where it hides nothing, in as many columns as fit.

    Call it within `Look.applied`.
    """
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        entries |= {
            label: marks for label, marks in legend_entries(axes).items() if label not in entries
        }
    letter = font_manager.FontProperties(size="small").get_size_in_points() / 72  # inches
    widest = letter * (LETTER * max(map(len, entries), default=1) + HANDLE)
    columns = max(1, min(4, len(entries), int(figure.get_figwidth() / widest)))
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    where |= {"title": title or None, "title_fontsize": "small"}
    several = [marks for marks in entries.values() if len({*map(type, marks)}) < len(marks)]
    beside = {marks: HandlerTuple(ndivide=None) for marks in several}  # dots of dev and test
    figure.legend([*entries.values()], [*entries], handler_map=beside, **where)


def legend_entries(axes: Axes) -> dict[str, tuple[Any, ...]]:
    """All marks that have the same label, by label: a line and its band are one entry."""
    marks: dict[str, tuple[Any, ...]] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        before = marks.get(label, ())
        alike = any(isinstance(mark, type(handle)) for mark in before)
        marks[label] = (*before, handle) if alike else (handle, *before)  # lines are on top
    return dict(sorted(marks.items(), key=lambda entry: not is_mean(entry[1][-1])))


def is_mean(mark: Any) -> bool:
    """Whether a mark is what a reader looks for first: no dot of a seed, and no dotted line."""
    return not isinstance(mark, PathCollection) and getattr(mark, "get_linestyle", str)() != ":"


def files_of(figure: Figure, look: Look = DEFAULT_LOOK) -> dict[str, bytes]:
    """A figure in each format, without a date: the same figure is the same bytes.

    The layout is solved once and holds for all formats. Fonts in a PDF are TrueType, since venues
    refuse Matplotlib's default, Type 3.
    """
    files = {}
    settings: Any = {name: settings_in(PAPER)[name] for name in ("pdf.fonttype", "svg.hashsalt")}
    with matplotlib.rc_context(settings), boxes_told():
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)
        for kind in look.formats:
            buffer = io.BytesIO()
            options = {"metadata": UNDATED.get(kind), **FASTER.get(kind, {})}
            figure.savefig(buffer, format=kind, dpi=PNG_DPI, **options)
            files[kind] = buffer.getvalue()
    return files


def save_figure(figure: Figure, stem: Path, look: Look = DEFAULT_LOOK) -> list[Path]:
    """Write a figure in each format that was asked for; raises `OSError`."""
    return write_figure(files_of(figure, look), stem)


def write_figure(files: dict[str, bytes], stem: Path) -> list[Path]:
    """Write what `files_of` gives; the same figure in other formats, which would be stale, goes."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in files]
    for path, content in zip(paths, files.values(), strict=True):
        write_atomically(path, content)
    for kind in set(FORMATS) - files.keys():
        stem.with_name(f"{stem.name}.{kind}").unlink(missing_ok=True)
    return paths


@contextmanager
def boxes_told() -> Iterator[None]:
    """One line, once, for all characters that no font has; Matplotlib warns of each of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", MISSING)
        yield
    for one in caught:
        if re.match(MISSING, str(one.message)):
            warn_once(
                "a title or label has characters that the font lacks and that become boxes; "
                "a style sheet (`style`) with another font.family has them"
            )
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
