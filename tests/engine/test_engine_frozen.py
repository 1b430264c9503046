"""Frozen is frozen: what training may not do to a teacher."""

import copy
from dataclasses import replace

import pytest
import torch
from kill_worker import SGD, engine
from torch import nn

from potstill import checkpoint


def tensors(value):
    """Every tensor in nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def prepare(teacher):
    """A teacher in a state of its own: partly in evaluation mode, partly without gradient."""
    teacher.train()
    teacher.stage2.eval()
    teacher.fc.bias.requires_grad_(False)
    teacher.before = (
        copy.deepcopy(teacher.state_dict()),
        {name: module.training for name, module in teacher.named_modules()},
        {name: parameter.requires_grad for name, parameter in teacher.named_parameters()},
    )


@pytest.mark.parametrize("change", [{}, {"micro_batch": 4}, {"optimizer": "adamw", "ema": 0.9, "clip": 1.0}])
@pytest.mark.parametrize("method", ["kd+icd+fitnet", "icd~shuffled"])
def test_teacher_is_as_it_was(method, change, tmp_path):
    run = engine(tmp_path, replace(SGD, epochs=2, **change), method=method, prepare=prepare)
    source = run.sources["teacher"]
    source = getattr(source, "source", source)
    teacher = source.module
    weights, modes, wanted = teacher.before
    running = []
    teacher.register_forward_hook(lambda module, args, result: running.append((module.training, result.requires_grad)))
    student = copy.deepcopy(run.student.state_dict())
    run.run()
    assert any(not torch.equal(value, student[name]) for name, value in run.student.state_dict().items())
    assert set(running) == {(False, False)}
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    source.close()
    assert {name: module.training for name, module in teacher.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in teacher.named_parameters()} == wanted
    assert not any(module._forward_pre_hooks for module in teacher.modules())

    of_teacher = {id(value) for value in (*teacher.parameters(), *teacher.buffers())}
    assert not of_teacher & {id(value) for value in (*run.system.parameters(), *run.system.buffers())}
    assert not of_teacher & {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    own = [value for value in weights.values() if value.ndim > 1]
    for saved in tensors(checkpoint.read(tmp_path)):
        assert not any(torch.equal(saved, value) for value in own)
    roots = {name.split(".")[0] + "." + name.split(".")[1] for name in run.system.state_dict()}
    assert {name for name in roots if name.startswith("networks")} == {"networks.student"}


def test_a_trained_teacher_would_show():
    """The checks above can fail: in training mode the same teacher does change."""
    seen = []
    engine(None, method="kd", prepare=seen.append)
    teacher = seen[0].train()
    before = copy.deepcopy(teacher.state_dict())
    teacher(torch.rand(4, 1, 8, 8))
    assert any(not torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert isinstance(teacher, nn.Module)
