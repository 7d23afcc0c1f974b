"""The loss landscape of Figure 2 of QGen (Li et al. 2018, arXiv 1712.09913): surfaces around models, lines between."""

from __future__ import annotations

from qsweep.workers.landscape.survey import Scores, Survey

__all__ = ["Scores", "Survey"]
