"""A report as one page of HTML that needs nothing else: figures inside, tables that sort."""

import base64
import re
from html import escape
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

MIME = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}
FIGURES = re.compile(r'(?:<p><img src="[^"]+" alt="[^"]*" /></p>\s*)+')
SOURCE = re.compile(r'(?<=<img src=")[^"]+')
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1b1b; --line: #d0d0d0; --hint: #f4f1f3 }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181b; --text: #e6e6e6; --line: #44474b; --hint: #23262a }
  .figures img { filter: invert(0.91) hue-rotate(180deg) }
}
body { background: var(--back); color: var(--text); max-width: 64rem; margin: 2rem auto;
  padding: 0 1rem; font: 16px/1.55 system-ui, sans-serif }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; font-size: 1.25rem }
table { border-collapse: collapse; display: block; overflow-x: auto; max-width: 100%;
  font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: 0.3rem 0.8rem }
td { white-space: nowrap } th { vertical-align: bottom }
th button { all: unset; cursor: pointer; font-weight: 600 }
th button:focus-visible { outline: 2px solid }
th[aria-sort=ascending] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
tbody tr:hover, code { background: var(--hint) }
pre { overflow-x: auto; padding: 0.8rem; border: 1px solid var(--line) }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)) }
.figures p { margin: 0 } .figures img { width: 100%; height: auto }
.figures p:has([alt=overview]) { grid-column: 1 / -1 }
"""
SORTING = """
const value = row => column => {
  const text = row.cells[column].textContent, number = parseFloat(text.replace(/^[<>] /, ""));
  return isNaN(number) ? text : number;
};
const order = (a, b) => a === b ? 0
  : typeof a === typeof b ? (a < b ? -1 : 1) : typeof a === "number" ? -1 : 1;
for (const table of document.querySelectorAll("table"))
  table.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => order(value(a)(column), value(b)(column)) * (down ? -1 : 1));
      table.tBodies[0].append(...rows);
    };
  });
"""


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
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}<script>{SORTING}</script>\n"
        "</body>\n</html>\n"
    )
