"""The cut-down font draws what the whole one draws."""

import io
import warnings

import pytest

from srn_jax.analysis import fonts, look
from srn_jax.analysis.look import CHINESE, Look, save_figure
from srn_jax.errors import warn_once

pytestmark = pytest.mark.no_jax


def drawn(words: str) -> bytes:
    with Look(title=words).axes(4, 0.7) as (figure, axes):
        axes.set_xlabel("sequence length: AVAToy 0.5 × −3 ≥ 95 %")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.mark.parametrize("words", ["train and dev", "ℵ is in the whole font alone"])
def test_figures_are_those_of_the_whole_font(words, monkeypatch):
    ours = drawn(words)
    monkeypatch.setattr(fonts, "families", lambda: [fonts.WHOLE])
    assert drawn(words) == ours


def test_it_is_made_once_and_nothing_else_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(fonts.matplotlib, "get_cachedir", lambda: str(tmp_path))
    fonts.short_font.cache_clear()
    fonts.short_font()
    (copy,) = tmp_path.iterdir()
    made = copy.stat().st_mtime_ns
    fonts.short_font.cache_clear()
    fonts.short_font()
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [made]
    fonts.short_font.cache_clear()


def test_a_pdf_takes_its_characters_from_it(tmp_path, monkeypatch):
    """Without it the file is much the same, so it is asked what Matplotlib opened."""
    fonts.short_font()
    opened = []
    load_font = fonts.subset.load_font
    monkeypatch.setattr(
        fonts.subset, "load_font", lambda path, *rest: opened.append(path) or load_font(path, *rest)
    )
    with Look().axes(4, 0.7) as (figure, axes):
        axes.set_title("accuracy")
    save_figure(figure, tmp_path / "figure", Look(formats=("pdf",)))
    assert opened and all("srn_jax-" in str(path) for path in opened)


def test_a_font_for_chinese_changes_nothing_in_latin_letters(monkeypatch):
    """One of Matplotlib's own stands for it, since a machine may have none."""
    monkeypatch.setitem(CHINESE, "fonts", [])
    without = drawn("train and dev")
    monkeypatch.setitem(CHINESE, "fonts", ["STIXGeneral"])
    assert drawn("train and dev") == without


def test_a_users_own_words_are_drawn_in_it_or_one_line_says_that_they_are_boxes(
    tmp_path, monkeypatch, capsys
):
    warn_once.cache_clear()

    def save(words):
        own = Look(title=words, formats=("png", "pdf"))
        with own.axes(4, 0.7) as (figure, _):
            save_figure(figure, tmp_path / "figure", own)

    monkeypatch.setitem(CHINESE, "fonts", ["STIXGeneral"])
    save("\u1d84 is in it alone")
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(CHINESE, "fonts", [])
    save("标题")
    save("运行")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "boxes" in line and "Noto Sans CJK SC" in line
    warn_once.cache_clear()


def test_other_warnings_of_matplotlib_stay():
    with pytest.warns(UserWarning, match="something else"), look.boxes_told():
        warnings.warn("something else", UserWarning, stacklevel=1)
