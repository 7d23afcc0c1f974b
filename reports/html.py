"""A table in HTML: a fragment for a page, and a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from reports.escaping import html as escape

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1.5rem 0 .5rem; }
caption { font-weight: 600; padding-bottom: .5rem; text-align: left; }
th, td { padding: .25rem .75rem; text-align: left; white-space: nowrap; }
thead { border-bottom: 1px solid; border-top: 2px solid; }
tbody { border-bottom: 2px solid; }
.number { text-align: right; }
.notes { font-size: .875rem; margin: 0 0 2rem; }
@media print { body { margin: 0; max-width: none; } }
"""


def fragment(
    caption: str, header: Sequence[str], body: Sequence[Sequence[str]], *, texts: int, notes: Sequence[str]
) -> str:
    """A table whose first `texts` columns are texts and the others numbers, with its notes below."""
    lines = ['<div class="scroll"><table>', f"  <caption>{escape(caption)}</caption>"]
    lines += ["  <thead><tr>" + _cells("th", header, texts, ' scope="col"') + "</tr></thead>", "  <tbody>"]
    lines += ["    <tr>" + _cells("td", row, texts) + "</tr>" for row in body]
    lines += ["  </tbody>", "</table></div>"]
    if notes:
        lines += ['<ul class="notes">', *(f"  <li>{escape(note)}</li>" for note in notes), "</ul>"]
    return "\n".join(lines) + "\n"


def _cells(tag: str, texts: Sequence[str], left: int, attributes: str = "") -> str:
    number = ' class="number"'
    return "".join(
        f"<{tag}{attributes}{number if index >= left else ''}>{escape(text)}</{tag}>"
        for index, text in enumerate(texts)
    )


def document(body: str, title: str) -> str:
    """A page of such fragments, without scripts and without anything from a network."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
