"""A table in HTML: a fragment for a page, and a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from qsweep.reports.escaping import html as escape
from qsweep.reports.sheet import Sheet

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1.5rem 0 .5rem; }
caption { font-weight: 600; padding-bottom: .5rem; text-align: left; }
th, td { padding: .25rem .75rem; text-align: left; white-space: nowrap; }
thead { border-bottom: 1px solid; border-top: 2px solid; }
tbody { border-bottom: 2px solid; }
tr.first td { border-top: 1px solid color-mix(in srgb, currentColor 30%, transparent); }
.number { text-align: right; }
.notes { font-size: .875rem; margin: 0 0 2rem; }
@media print { body { margin: 0; max-width: none; } }
"""


def fragment(sheet: Sheet) -> str:
    """A sheet as a table, with its caption above and its notes below."""
    lines = ['<div class="scroll"><table>', f"  <caption>{escape(sheet.caption)}</caption>"]
    lines += ["  <thead><tr>" + _cells("th", sheet, sheet.names, ' scope="col"') + "</tr></thead>", "  <tbody>"]
    for number, row in enumerate(sheet.rows):
        begins = ' class="first"' if number and number in sheet.groups else ""
        lines.append(f"    <tr{begins}>" + _cells("td", sheet, row) + "</tr>")
    lines += ["  </tbody>", "</table></div>"]
    if sheet.notes:
        lines += ['<ul class="notes">', *(f"  <li>{escape(note)}</li>" for note in sheet.notes), "</ul>"]
    return "\n".join(lines) + "\n"


def _cells(tag: str, sheet: Sheet, texts: Sequence[str], attributes: str = "") -> str:
    number = ' class="number"'
    return "".join(
        f"<{tag}{attributes}{number if one.numeric else ''}>{escape(text)}</{tag}>"
        for one, text in zip(sheet.headings, texts, strict=True)
    )


def document(body: str, title: str) -> str:
    """A page of such fragments, without scripts and without anything from a network."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
