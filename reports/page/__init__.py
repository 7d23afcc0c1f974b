"""The report: one self-contained HTML page about one sweep."""

from qsweep.reports.page.page import render_page

__all__ = ["render_page"]
