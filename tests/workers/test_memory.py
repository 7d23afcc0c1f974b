"""Running out of memory is known for what it is, and costs half the slots."""

from __future__ import annotations

import pytest
import torch

from workers.agent.memory import is_out_of_memory


def test_an_allocation_that_the_machine_refuses_is_one() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 55)
    assert is_out_of_memory(refused.value)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_other_errors_are_told_apart(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one
