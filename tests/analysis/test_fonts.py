"""The cut-down font draws what the whole one draws."""

import io

import pytest

from srn_jax.analysis import fonts
from srn_jax.analysis.look import Look, save_figure

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
