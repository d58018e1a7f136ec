"""A report as one page of HTML that needs nothing else: figures inside, tables that sort."""

import base64
import re
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import unquote

from markdown_it import MarkdownIt

TEMPLATE = Path(__file__).with_name("page.html")
MIME = {".png": "image/png", ".svg": "image/svg+xml"}
FIGURES = re.compile(r'(?:<p><img src="[^"]+" alt="[^"]*" /></p>\s*)+')
SOURCE = re.compile(r'(?<=<img src=")[^"]+')


def html_page(text: str, folder: Path) -> str:
    """A Markdown report as HTML; the figures that it shows are read from beside it."""

    def embedded(found: re.Match[str]) -> str:
        path = folder / unquote(found[0])
        content = base64.b64encode(path.read_bytes()).decode()
        return f"data:{MIME[path.suffix]};base64,{content}"

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = FIGURES.sub(lambda found: f'<div class="figures">\n{found[0]}</div>\n', body)
    body = SOURCE.sub(embedded, body)
    title = escape(text.partition("\n")[0].lstrip("# "))
    page = Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=title, body=body)
