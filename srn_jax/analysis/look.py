"""How figures look: size, type, files, language; Matplotlib's own settings stay as they are."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from srn_jax.analysis.results import write_atomically
from srn_jax.errors import UserError

FORMATS = ("pdf", "png", "svg")
SMALLEST_TYPE = 6.5  # points
PNG_DPI = 150
FASTER: dict[str, Any] = {
    "png": {"pil_kwargs": {"compress_level": 1}}
}  # twice as fast, a tenth larger
CHARACTER_WIDTH = 0.56  # of a typical letter, in units of the type's size
LINE_HEIGHT = 1.6  # of a legend's line, in units of the type's size
HANDLE_WIDTH = 5.0  # of a legend's line and the spaces around it, in the same units
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Heiti SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Noto Sans Mono CJK SC",
    "SimSun",
)
CHINESE = {
    "step": "步",
    "loss": "损失",
    "accuracy": "准确率",
    "test accuracy": "测试准确率",
    "sequence length": "序列长度",
    "length {length}": "长度 {length}",
    ", {gone} of {seeds} seeds diverged": "，{seeds} 个种子中有 {gone} 个发散",
    "train": "训练集",
    "dev": "验证集",
    "test": "测试集",
    "best dev": "验证集（最好）",
    "train, mean of each epoch": "训练集，每回合平均",
    "{name}, median and 5-95 % of {seeds} seeds": "{name}，{seeds} 个种子的中位数与 5-95 %",
    ", median and 5-95 % of {seeds} seeds": "，{seeds} 个种子的中位数与 5-95 %",
    "gradient norm": "梯度范数",
    "update norm": "更新量范数",
    "parameter norm": "参数范数",
    "{name}, mean and 95 % interval": "{name}，平均与 95 % 区间",
    "{name}, single seeds": "{name}，单个种子",
    "{name} (seeds: {seeds})": "{name}（{seeds} 个种子）",
    "chance, {chance:.2f}": "猜测，{chance:.2f}",
    "mean over seeds and its 95 % bootstrap interval": "种子的平均及其 95 % 自助法区间",
    "L2 Norm": "L2 范数",
    "{name}, mean of {window} steps": "{name}，每 {window} 步平均",
    "position": "位置",
    "unit": "单元",
}


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
        width = self.width
        if width is not None and not (math.isfinite(width) and 1 <= width <= 100):
            raise UserError(f"--width must be a number of inches from 1 to 100, got {width:g}")
        unknown = [kind for kind in self.formats if kind not in FORMATS]
        if unknown or not self.formats:
            got = unknown[0] if unknown else "none"
            raise UserError(f"--format must be one of {', '.join(FORMATS)}, got {got}")
        if self.language not in ("en", "zh"):
            raise UserError(f"--lang must be en or zh, got {self.language}")
        if self.language == "zh":
            chinese_font()

    def say(self, words: str, **values: Any) -> str:
        """Words of a figure in its language, with values in their places."""
        return (CHINESE.get(words, words) if self.language == "zh" else words).format(**values)

    @contextmanager
    def applied(self, width: float, type_size: float = 10) -> Iterator[float]:
        """Matplotlib's settings for a figure of `width` inches and type of `type_size` points.

        Yields the width that the reader wants. Type and lines grow with the square root of it, so
        that they can be read in a narrow column and do not shout on a slide.
        """
        wide = self.width or width
        scale = math.sqrt(wide / width)
        settings: Any = {
            "font.size": max(SMALLEST_TYPE, type_size * scale),
            "lines.linewidth": 1.8 * scale,
            "lines.markersize": 6 * scale,
            "errorbar.capsize": 3 * scale,
            "axes.titlesize": "medium",
            "figure.titlesize": "large",
            "legend.fontsize": "small",
            "legend.handlelength": 3.2,
            "pdf.fonttype": 42,  # TrueType; venues refuse the default, Type 3
            "svg.hashsalt": "srn_jax",  # so that the same figure is the same bytes
            "figure.dpi": PNG_DPI,
            "figure.autolayout": False,
            "figure.constrained_layout.use": False,
        }
        if self.language == "zh":
            settings |= {"font.family": [chinese_font(), "DejaVu Sans"]}
            settings |= {"axes.unicode_minus": False}
        with matplotlib.rc_context(settings):
            yield wide

    def figure(self, width: float, height: float) -> Figure:
        """An empty figure, in `applied`; `width` is the one it has and `height` in proportion."""
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        if self.title:
            figure.suptitle(self.title)
        return figure


DEFAULT_LOOK = Look()


def chinese_font() -> str:
    """The name of an installed font with Chinese characters; raises `UserError` for none."""
    installed = set(font_manager.get_font_names())
    for name in CHINESE_FONTS:
        if name in installed:
            return name
    raise UserError(
        "--lang zh needs a font with Chinese characters and none was found, install one such as "
        "Noto Sans CJK SC or leave out --lang"
    )


def save_figure(figure: Figure, stem: Path, look: Look = DEFAULT_LOOK) -> list[Path]:
    """Write a figure in each format, without a date: the same figure is the same bytes.

    The layout is solved once and holds for all formats.
    """
    with look.applied(figure.get_figwidth()):
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)
        paths = []
        for kind in look.formats:
            metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
            buffer = io.BytesIO()
            figure.savefig(
                buffer, format=kind, dpi=PNG_DPI, metadata=metadata, **FASTER.get(kind, {})
            )
            paths.append(stem.with_name(f"{stem.name}.{kind}"))
            write_atomically(paths[-1], buffer.getvalue())
    return paths
