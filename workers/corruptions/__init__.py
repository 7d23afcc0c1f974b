"""The corruptions of Hendrycks & Dietterich, under their names in `sweeps.corruptions`, and sets of corrupted images.

Nothing here needs torch. scipy, OpenCV, scikit-image and Pillow are imported where an image is corrupted.
"""

from __future__ import annotations

from qsweep.workers.corruptions.corrupt import corrupt

__all__ = ["corrupt"]
