"""The charts of a sweep, described once: `reports.drawing` draws them in figures, and a script on the page."""
