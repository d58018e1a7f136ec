"""How figures look: size, type, files; Matplotlib's own settings stay as they are."""

import io
import math
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

from srn_jax.errors import UserError
from srn_jax.files import write_atomically

FORMATS = ("pdf", "png", "svg")
SMALLEST_TYPE = 6.5  # points
NARROWEST = 1.5  # inches, in which a figure has room beside its labels
PNG_DPI = 150
OPTIONS: dict[str, Any] = {  # without a date, so the same figure is the same bytes
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
    "png": {"pil_kwargs": {"compress_level": 1}},  # faster, and a tenth larger
}
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
        """An empty figure, and Matplotlib's settings while it is drawn."""
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
    """Put one legend of all axes below them; call it within `Look.applied`.

    All marks with the same label, such as a line and its band, are one entry.
    """
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        marks: dict[str, Any] = {}
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            before = marks.get(label, ())
            alike = any(isinstance(mark, type(handle)) for mark in before)
            marks[label] = (*before, handle) if alike else (handle, *before)  # lines are on top
        entries = marks | entries
    entries = dict(sorted(entries.items(), key=lambda entry: is_aside(entry[1][-1])))
    letter = font_manager.FontProperties(size="small").get_size_in_points() / 72  # inches
    widest = letter * (LETTER * max(map(len, entries), default=1) + HANDLE)
    columns = max(1, min(4, len(entries), int(figure.get_figwidth() / widest)))
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    where |= {"title": title or None, "title_fontsize": "small"}
    several = [marks for marks in entries.values() if len({*map(type, marks)}) < len(marks)]
    beside = {marks: HandlerTuple(ndivide=None) for marks in several}  # dots of dev and test
    figure.legend([*entries.values()], [*entries], handler_map=beside, **where)


def is_aside(mark: Any) -> bool:
    """Whether a mark comes last in a legend: a dot of a seed, or a dotted line."""
    return isinstance(mark, PathCollection) or getattr(mark, "get_linestyle", str)() == ":"


def files_of(figure: Figure, look: Look = DEFAULT_LOOK) -> dict[str, bytes]:
    """A figure in each format; the layout is solved once, and fonts in a PDF are TrueType."""
    files = {}
    settings: Any = {name: settings_in(PAPER)[name] for name in ("pdf.fonttype", "svg.hashsalt")}
    with matplotlib.rc_context(settings):
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)
        for kind in look.formats:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=PNG_DPI, **OPTIONS[kind])
            files[kind] = buffer.getvalue()
    return files


def save_figure(figure: Figure, stem: Path, look: Look = DEFAULT_LOOK) -> list[Path]:
    """Write a figure in each format; the same one in other formats, which would be stale, goes."""
    files = files_of(figure, look)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in files]
    for path, content in zip(paths, files.values(), strict=True):
        write_atomically(path, content)
    for kind in set(FORMATS) - files.keys():
        stem.with_name(f"{stem.name}.{kind}").unlink(missing_ok=True)
    return paths
