"""A table in LaTeX."""

from __future__ import annotations

import re

from qsweep.reports import escaping
from qsweep.reports.sheet import Sheet

NUMBER = re.compile(r"^Table \d+: ")
"""What LaTeX writes before a caption by itself."""


def fragment(sheet: Sheet) -> str:
    """For the packages booktabs and graphicx; a table that is wider than the line is made as small as it takes."""
    title = NUMBER.sub("", sheet.title)
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaping.latex(f'{title} ({sheet.subtitle})')}}}",
        rf"  \label{{tab:{escaping.latex_label(sheet.label)}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{''.join('r' if one.numeric else 'l' for one in sheet.headings)}}}",
        r"    \toprule",
        "    " + " & ".join(escaping.latex(name) for name in sheet.names) + r" \\",
        r"    \midrule",
    ]
    for number, line in enumerate(sheet.rows):
        lines += [r"    \addlinespace"] if number and number in sheet.groups else []
        lines.append("    " + " & ".join(escaping.latex(cell) for cell in line) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}}"]
    lines += [rf"  \par\footnotesize {escaping.latex(remark)}" for remark in sheet.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"
