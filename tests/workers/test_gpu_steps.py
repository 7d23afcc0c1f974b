"""What a GPU would find fault with in a step, seen without one: on the meta device, whose tensors have no values.

Whatever reads a value raises there by itself, and so does what can't be laid out. The watch sees the rest: copies
between host and device that wait, and operations on tensors of both.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.targets import first_shares
from qsweep.workers.device import make_deterministic, precision_of
from qsweep.workers.evaluation import cross_entropy
from qsweep.workers.forms import Form, forms_of
from qsweep.workers.models.graph import ConvNetwork
from qsweep.workers.quantizers import sums
from tests.workers.trainings import COMPONENTS, first, on, training, with_component

META = torch.device("meta")
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "gather_backward")
"""Operations whose result, or its shape, the host must wait for."""
IN_FIXED_ORDER = ("scatter_add", "scatter_add_", "scatter", "scatter_")
"""Operations of more than one dimension that copy strides to a GPU and wait, where sums have to have a fixed order."""
COPIES = ("_to_copy", "copy_")


class Watch(TorchDispatchMode):
    """Writes down what makes the host wait for the device, and what mixes the two."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        devices = {one.device.type for one in given if one.dim()}
        if name in READS or (name in IN_FIXED_ORDER and "meta" in devices and given[0].dim() > 1):
            self.found.append(name)
        if name in COPIES:
            source, target = (given[1], given[0]) if name == "copy_" else (given[0], result)
            there = (source.device.type, target.device.type)
            asynchronous = kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])
            if there == ("meta", "cpu") or (there == ("cpu", "meta") and not asynchronous):
                self.found.append(f"{name} from {there[0]} to {there[1]}")
        elif len(devices) > 1:
            self.found.append(f"{name} of {sorted(devices)}")
        return result


def test_the_watch_sees_what_waits() -> None:
    there = torch.ones(2, 3, device=META)
    with Watch() as watch:
        float(torch.ones(2).sum())
        torch.ones(3).nonzero()
        torch.ones(3).to(META)
        torch.ones(3).to(META, non_blocking=True)
        there.scatter_add(1, torch.zeros(2, 3, dtype=torch.int64, device=META), there)
        there[:, torch.tensor([0, 1])]
    assert watch.found == [
        "_local_scalar_dense",
        "nonzero",
        "_to_copy from cpu to meta",
        "scatter_add",
        "index of ['cpu', 'meta']",
    ]


@pytest.fixture
def as_cuda(monkeypatch: pytest.MonkeyPatch, uncompiled: None) -> None:
    """Tensors on the meta device take the ways of those on a GPU."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda one: one.device.type == "meta"), raising=False)


def of_forms(**settings: Any) -> list[Training]:
    chosen = zip(("sgd", "adam", "rmsprop"), (32, 8, 2), strict=True)
    return [training(depth=1, optimizer=name, bits=bits, **settings) for name, bits in chosen]


CASES: dict[str, tuple[Form, list[Training]]] = {
    **{f"form/{form}": (form, of_forms()) for form in forms_of("fp32", "cuda")},
    **{f"bf16/{form}": (form, of_forms(precision="bf16")) for form in forms_of("bf16", "cuda")},
    "evaluated": (Form.GATHER, of_forms(select_by="evaluated", val_fraction=0.2)),
    "dropped paths": (Form.GROUPED, [with_component("model", "vit", drop_path=0.2)]),
    "m-sharpness": (Form.LOOP, [with_component("method", "asam", ascent_images=50, activation_bits=4)]),
    "penalized": (Form.LOOP, [with_component("quantizer", "vvtq", bin_regularization=0.1)]),
}


def case_of(part: str, name: str) -> tuple[Form, list[Training]]:
    one = with_component(part, name)
    return forms_of("fp32", "cuda", one.model)[0], [one, with_component(part, name, seed=1)]


@pytest.mark.usefixtures("as_cuda")
@pytest.mark.parametrize("case", [*CASES, *(f"{part}/{name}" for part, name in COMPONENTS)])
def test_two_epochs_never_wait_and_stay_on_the_device(few: Images, case: str) -> None:
    form, trainings = CASES[case] if case in CASES else case_of(*case.split("/"))
    images = first(few, 200 if case == "evaluated" else 150, 60)  # a step an epoch
    cohort = Cohort(on(images, trainings), images, slots=len(trainings) + 1, form=form, device=META)
    while cohort.epoch < 1:  # what is made once for a device is made here, before a GPU would record
        cohort.step()
    with Watch() as watch:
        while not cohort.finished:
            cohort.step()
    assert not watch.found
    with pytest.raises(NotImplementedError):
        cohort.state(0)


def test_sums_on_a_gpu_never_begin_between_two_of_its_addresses(monkeypatch: pytest.MonkeyPatch, as_cuda: None) -> None:
    """The rows of a matrix of 7 columns: only every fourth one begins where four numbers are read at once."""
    begun: list[int] = []
    whole = torch.sum

    def counting(values: Tensor, *given: Any, **named: Any) -> Tensor:
        begun.append(values.storage_offset() % sums.AT_ONCE)
        return whole(values, *given, **named)

    monkeypatch.setattr(sums.torch, "sum", counting)
    sums.row_sums(torch.ones(5, 7, device=META))
    assert begun == [0] * 5


def test_the_label_is_picked_as_gather_does_bit_for_bit() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(3, 7, 40, generator=draw)).requires_grad_()
    labels = torch.randint(7, (40,), generator=draw)
    wanted = -logits.log_softmax(1).gather(1, labels.expand(3, 1, -1)).squeeze(1)
    found = cross_entropy(logits, labels)
    assert torch.equal(found, wanted)
    slopes = [torch.autograd.grad(one.mean(), logits, retain_graph=True)[0] for one in (found, wanted)]
    assert torch.equal(*slopes)
    shares = first_shares(logits[0].detach(), 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(40))


def test_only_the_steps_of_a_training_in_tf32_are_in_tf32(few: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[bool]] = {"train": set(), "evaluate": set()}
    for name in seen:
        whole = getattr(ConvNetwork, name)

        def watched(*given: Any, name: str = name, whole: Any = whole) -> Any:
            seen[name].add(torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32)
            return whole(*given)

        monkeypatch.setattr(ConvNetwork, name, watched)
    images = first(few, 250, 60)
    [one] = on(images, [training(depth=1, epochs=1, precision="tf32", select_by="evaluated")])
    cohort = Cohort([one], images, slots=1, form=Form.LOOP, device=torch.device("cpu"))
    while not cohort.finished:
        cohort.step()
    assert seen == {"train": {True}, "evaluate": {False}}
    with pytest.raises(ZeroDivisionError), precision_of("tf32"):
        raise ZeroDivisionError
    assert not torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    before = torch.are_deterministic_algorithms_enabled()
    try:
        make_deterministic()
    finally:
        torch.use_deterministic_algorithms(before)
    assert not torch.backends.cudnn.allow_tf32  # which PyTorch allows from the start
