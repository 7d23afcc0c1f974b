"""The libraries that corruptions are computed with: optional, and asked for where they are needed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from qsweep.sweeps.errors import InputError

PACKAGES = {
    "cv2": "opencv-python-headless",
    "scipy.ndimage": "scipy",
    "skimage.color": "scikit-image",
    "skimage.util": "scikit-image",
    "PIL.Image": "pillow",
}
"""What pip calls the distribution of each module."""


def library(module: str) -> Any:
    """The imported module. Raises InputError, with what to install, where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise _missing(module) from None


def check_libraries() -> None:
    """Raise InputError if one is missing. Imports none."""
    for module in PACKAGES:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise _missing(module)


def _missing(module: str) -> InputError:
    return InputError(
        f"corrupting images needs {PACKAGES[module]}, which is not installed here",
        place="distortion",
        allowed=f"pip install 'qsweep[distortion]' (or {', '.join(dict.fromkeys(PACKAGES.values()))})",
    )
