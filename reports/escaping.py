"""Names and texts of users in each format of an answer: shown as they are, and obeyed in none.

Every text loses its control characters and escape sequences, and stands on one line.
"""

from __future__ import annotations

import html as python_html
import re

from qsweep.sweeps.text import clean

MARKDOWN = re.compile(
    r"[\\`|~$]|\*(?=\S)|(?<=\S)\*"  # an asterisk between spaces is one
    r"|(?<![^\W_])_|_(?![^\W_])"  # so is an underline within a word
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)"  # and a smaller than before a number
    r"|\](?=[(\[:])"  # and a bracket that no link ends with
)
"""What Markdown reads as more than itself."""
ENTITIES = {"<": "&lt;", "&": "&amp;"}
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}", "±": r"$\pm$", "–": "--", "×": r"$\times$",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "‖": r"$\Vert$", "₂": r"$_2$", "²": r"$^2$",
    "σ": r"$\sigma$", "α": r"$\alpha$", "·": r"$\cdot$",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}  # fmt: skip
"""What LaTeX reads as more than itself, and what it has other names for. A row may not begin with a plain bracket."""
MINUS = re.compile(r"(?<![\w-])-(?=\d)")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def on_one_line(text: str) -> str:
    """The text as a terminal or a line of a file may show it."""
    return " ".join(clean(text).split("\n"))


def markdown(text: str) -> str:
    """A text in Markdown, in a table's cell or elsewhere."""
    return MARKDOWN.sub(lambda found: ENTITIES.get(found[0], "\\" + found[0]), on_one_line(text))


def latex(text: str) -> str:
    """A text in LaTeX; a sign before a digit becomes a minus."""
    minus = "\0"  # cleaned from the text, so that it can't stand there
    signed = MINUS.sub(minus, on_one_line(text))
    return "".join(LATEX.get(char, char) for char in signed).replace(minus, "$-$")


def latex_label(text: str) -> str:
    """A text as the name of a label in LaTeX."""
    return re.sub(r"[^A-Za-z0-9.:-]+", "-", text).strip("-") or "table"


def html(text: str) -> str:
    """A text in HTML, or in an attribute there."""
    return python_html.escape(clean(text))


def spreadsheet(cell: str) -> str:
    """A cell of CSV that a spreadsheet takes for text; a number stays one."""
    return f"'{cell}" if cell.startswith(FORMULA) and not _is_number(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell == cell.strip() and "_" not in cell
