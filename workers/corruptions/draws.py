"""Random numbers of a corruption, from counters: an image draws the same ones whatever batch it comes in."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, corruption: str, severity: int, image: int | str) -> np.random.Generator:
    """The generator of one image, which is named by its number in the test set or by its path in a tree."""
    text = f"{seed}/{corruption}/{severity}/{image}"
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))
