"""What the file of a trained model is called: by its job and attempt, so that each file belongs to one attempt.

Of each attempt at home there is one agent, which alone writes under that name. A bundle may be worked off more than
once, so models that an import brings carry the hash of their content too: two parcels never write to the same file
unless they bring the same bytes.
"""

from __future__ import annotations

import re

PATTERN = re.compile(r"(?P<job>[0-9a-f]{32})-(?P<attempt>\d+)(?:-[0-9a-f]{32})?\.pt")
"""The last part of such a name."""


def model_name(identity: str, attempt: int, content: str | None = None) -> str:
    """Below the folder of models; `content` is the SHA-256 of what an import brings, in hex."""
    suffix = "" if content is None else f"-{content[:32]}"
    return f"{identity[:2]}/{identity}-{attempt}{suffix}.pt"
