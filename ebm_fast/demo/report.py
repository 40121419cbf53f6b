"""A short report, written once and rendered as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

_STYLE = """
body { max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; color: #222;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: left; border-bottom: 1px solid #ddd; }
td:not(:first-child), th:not(:first-child) { text-align: right; padding-left: 1.2rem; padding-right: 0; }
figure { margin: 1.2rem 0; } img { max-width: 100%; } figcaption { color: #555; font-size: 0.95rem; }
"""


class Report:
    """Headings, paragraphs, tables and pictures, in the order in which they are added."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._markdown = [f"# {title}"]
        self._html = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        self._markdown.append(f"## {text}")
        self._html.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        self._markdown.append(text)
        self._html.append(f"<p>{html.escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        self._markdown.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        self._html.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def picture(self, file: Path, caption: str) -> None:
        """A PNG file that lies beside the report: linked in Markdown, embedded in HTML."""
        self._markdown.append(f"![{caption}]({file.name})\n\n*{caption}*")
        data = base64.b64encode(file.read_bytes()).decode()
        caption = html.escape(caption)
        self._html.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def write(self, folder: Path) -> None:
        """report.md and report.html into ``folder``."""
        (folder / "report.md").write_text("\n\n".join(self._markdown) + "\n", encoding="utf-8")
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head><body>\n"
            + "\n".join(self._html)
            + "\n</body></html>\n"
        )
        (folder / "report.html").write_text(page, encoding="utf-8")


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table for a terminal: first column to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])
