"""A process that answers questions, for those that never import torch: `python -m qsweep.workers.service`.

Each line of its input is a question (`sweeps.questions`), each line of its output an answer or an error
(`sweeps.service`). It imports what a question needs when it is asked, and ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from qsweep.sweeps.errors import QsweepError, packed
from qsweep.sweeps.questions import QUESTIONS, Question
from qsweep.sweeps.service import ANSWER


def main() -> int:
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints is no answer
        for line in sys.stdin:
            answers.write(json.dumps(reply(json.loads(line))) + "\n")
            answers.flush()
    return 0


def reply(request: Mapping[str, Any]) -> dict[str, Any]:
    """What is said to a question: its answer, or the error that was raised."""
    question = QUESTIONS[request["question"]](**request["given"])
    try:
        return {ANSWER: answer(question)}
    except QsweepError as error:
        return packed(error)


def answer(question: Question) -> Mapping[str, Any]:
    """What the function answers that the question names."""
    module, _, name = question.answered_by.partition(":")
    found: Mapping[str, Any] = getattr(import_module(module), name)(question)
    return found


if __name__ == "__main__":
    sys.exit(main())
