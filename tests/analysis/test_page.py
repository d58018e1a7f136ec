"""Claims about the page of HTML: it holds everything, and a real browser shows and sorts it."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.image import imread

from srn_jax.analysis.look import Look, save_figure
from srn_jax.analysis.page import html_page

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome to look with")
TEXT = """# Memory & <more>

A note with `code`.

| run | mean |
| ---: | ---: |
| a | 0.300 |
| b | - |
| c | < 5 |
| d | +0.250 |
| e | <0.001 |

![6.7](figures/6.7.png)

![a b](figures/a%20b.svg)
"""


@pytest.fixture
def page(tmp_path):
    """The page of a small report with a figure of each kind."""
    (tmp_path / "figures").mkdir()
    for name, kind in (("6.7", "png"), ("a b", "svg")):
        look = Look(formats=(kind,))
        with look.axes(2, 0.5) as (figure, _):
            save_figure(figure, tmp_path / "figures" / name, look)
    return html_page(TEXT, tmp_path)


def in_browser(path, *options):
    """What the browser prints about a page; it may not reach any network."""
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", *options]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_page_needs_no_other_file_and_no_network(page):
    assert "http" not in page.replace("http-equiv", "")
    sources = re.findall(r'(?:src|href)="([^"]{1,30})', page)
    assert [source.partition(";")[0] for source in sources] == [
        "data:image/png",
        "data:image/svg+xml",
    ]
    assert "<title>Memory &amp; &lt;more&gt;</title>" in page
    assert "prefers-color-scheme: dark" in page


@pytest.mark.no_jax
@needs_browser
def test_a_browser_shows_the_figures_and_sorts_the_tables(page, tmp_path):
    click = """<script>
    document.querySelectorAll("th button")[1].click();
    const cells = [...document.querySelectorAll("tbody td:first-child")].map(c => c.textContent);
    const loaded = [...document.images].filter(image => image.complete && image.naturalWidth);
    document.title = cells.join("") + loaded.length;
    </script></body>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", click))
    shown = in_browser(tmp_path / "page.html", "--dump-dom", "--virtual-time-budget=3000")
    assert "<title>edacb2</title>" in shown  # by number, what is none last


@pytest.mark.no_jax
@needs_browser
def test_a_browser_shows_the_page_light_or_dark(page, tmp_path):
    (tmp_path / "page.html").write_text(page)
    for scheme, low, high in (("1", 0.9, 1.0), ("0", 0.0, 0.2)):
        picture = tmp_path / f"{scheme}.png"
        options = [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=600,400"]
        in_browser(tmp_path / "page.html", *options, f"--screenshot={picture}")
        background = np.median(imread(picture)[..., :3])
        assert low <= background <= high
