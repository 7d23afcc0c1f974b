"""Which device a process computes on, that it is the one it was started for, and how its operations add up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest
import torch

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.sweeps.errors import InputError
from qsweep.workers.agent.exits import Exit
from qsweep.workers.device import make_deterministic, this_device
from qsweep.workers.environment import GPU, VISIBLE, gpu_environment

UUID = "GPU-3b1c5e9a-0000-1111-2222-333344445555"
MIG = "MIG-41b2e9a0-0000-1111-2222-333344445555"

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.mark.parametrize(
    ("visible", "index", "name"),
    [
        (None, 0, "0"),
        (None, 3, "3"),
        ("", 0, "0"),
        ("2,3", 0, "2"),
        ("2,3", 1, "3"),
        (" 2 , 3 ", 1, "3"),
        ("0,1,-1,5", 1, "1"),  # those behind the first that is none are not counted either
        (f"{UUID},1", 0, UUID),
        (MIG, 0, MIG),
    ],
)
def test_a_process_gets_the_gpu_that_torch_counted_by_the_name_it_has_there(
    visible: str | None, index: int, name: str
) -> None:
    environment: Mapping[str, str] = {} if visible is None else {VISIBLE: visible}
    assert gpu_environment(index, environment) == {VISIBLE: name, GPU: name}


@without_gpu
def test_a_process_started_for_a_gpu_does_not_go_on_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GPU, raising=False)
    assert this_device() == torch.device("cpu")
    monkeypatch.setenv(GPU, "3")
    with pytest.raises(InputError, match=r"started for GPU 3, and torch .* finds none"):
        this_device()


@pytest.mark.slow
@without_gpu
def test_an_agent_whose_gpu_is_gone_ends_before_it_enlists(home: Home, registry: Registry) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "qsweep.workers.agent", "--home", str(home.root), "--lease", "30"],
        env={**os.environ, GPU: "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == Exit.BAD_INPUT
    assert "started for GPU 0" in ended.stderr
    assert registry.catalogue.agents(state=None) == []


@pytest.fixture
def flags() -> Iterator[None]:
    """The flags of this process as they were."""
    cudnn, before = torch.backends.cudnn, os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    kept = (cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled())
    yield
    cudnn.benchmark, cudnn.deterministic = kept[:2]
    torch.use_deterministic_algorithms(kept[2])
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if before is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = before


@pytest.mark.usefixtures("flags")
def test_on_a_gpu_every_library_is_told_to_add_up_in_a_fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.backends.cudnn.benchmark = True
    make_deterministic()
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.utils.deterministic.fill_uninitialized_memory
