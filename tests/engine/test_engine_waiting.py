"""No waiting in a step: from forward to optimizer nothing reads a value back from the device.

On the CPU nobody waits, so a dispatch mode watches for the operators that would. AdamW and the moving average are left
out: PyTorch keeps their step counters on the host and reads them there, which waits for nobody.
"""

from dataclasses import replace

import pytest
import torch
from engine_kit import FIT, Drawn, Gram, Normalised, Queue, example, make, sequences
from kill_worker import SGD, engine
from split_cases import SMALL
from torch.utils._python_dispatch import TorchDispatchMode

from potstill.budget import budgeted
from potstill.objectives import KD, CrossEntropy
from potstill.terms import Term
from potstill.types import Objective

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense, aten.item, aten.nonzero, aten.equal, aten.is_nonzero, aten.masked_select}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class NoWaiting(TorchDispatchMode):
    """Raises where a value would have to come back from the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        by_mask = packet in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if packet in WAITING or by_mask:
            raise AssertionError(f"{packet} waits for the device")
        return function(*args, **(kwargs or {}))


def watch(run, steps=3):
    """Take a step, and then some more that are watched."""
    run.begin()
    first, *others = [batch for epoch in range(steps) for batch in run.loader.epoch(epoch)][:steps]
    run.train_on(first)
    with NoWaiting():
        for batch in others:
            run.train_on(batch)
    assert run.step == steps


@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize(
    "method", ["ce", "kd", "icd", "fitnet", "icd+kd", "icd+kd+fitnet", "r2kd(augment=cutmixpick,rank=soft)"]
)
def test_nothing_waits(method, micro):
    watch(engine(None, replace(SGD, micro_batch=micro, clip=1.0), method=method))


@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("method", ["icd+kd", "fitnet"])
def test_nothing_waits_in_bf16(method, micro):
    watch(engine(None, replace(SGD, micro_batch=micro, clip=1.0), method=method, precision="bf16"))


@pytest.mark.parametrize("micro", [None, 4])
def test_nothing_waits_for_masks_queues_and_draws(micro):
    fit = replace(FIT, micro_batch=micro, epochs=3)
    watch(make([Term(CrossEntropy), Term(KD)], [sequences(0)], fit=fit))
    terms = [Term(CrossEntropy), Term(SMALL), Term(Gram), Term(Queue), Term(Normalised), Term(Drawn)]
    watch(make(terms, [example(0, mask=True)], fit=fit))


class Planted(Objective):
    """Does what an objective must not do."""

    def __init__(self, deed):
        super().__init__()
        self.deed = deed

    def forward(self, student, teacher):
        losses = (student - teacher).square().sum(1)
        return losses + 0 * self.deed(losses)


DEEDS = {
    "item": lambda losses: losses.detach().sum().item(),
    "float": lambda losses: float(losses[0].detach()),
    "if": lambda losses: 1.0 if losses.sum() > 0 else 0.0,
    "mask": lambda losses: losses[losses > 0].sum(),
    "nonzero": lambda losses: (losses > 0).nonzero().sum(),
    "equal": lambda losses: 1.0 * torch.equal(losses, losses),
    "assignment": lambda losses: losses.clone().masked_fill(losses > 0, 0).index_put((losses > 0,), losses[0]).sum(),
}


@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("deed", DEEDS)
def test_a_planted_wait_is_caught(deed, micro):
    run = make([Term(CrossEntropy), Term(Planted(DEEDS[deed]))], [example(0)], fit=replace(FIT, micro_batch=micro))
    with pytest.raises(AssertionError, match="waits for the device"):
        watch(run, 2)


@pytest.mark.parametrize("method", ["ckd(group=3,inter=cc)", "mixup_kd", "cutmix_kd"])
def test_nothing_waits_within_a_budget_once_it_is_spent(method):
    run = engine(None, SGD, method=method)
    images = run.loader.images
    teacher = budgeted(run.system.sources["teacher"], len(images), images, "crop", 0)
    run.system.sources["teacher"] = teacher
    teacher.fill()
    watch(run)
    assert teacher.calls == len(images)
