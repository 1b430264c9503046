"""Optimizer groups and averaged weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from potstill.recipe import Fit
from potstill.step import System


def make_optimizer(system: System, fit: Fit) -> torch.optim.Optimizer:
    """One group for the student with the objectives' parameters, one for each other trained source.

    A group's `rate` says how many times the run's learning rate is its own.
    """

    def trained(module: nn.Module) -> list[nn.Parameter]:
        return [p for p in module.parameters() if p.requires_grad]

    first = trained(system.networks["student"]) + trained(system.terms)
    others = {name: trained(network) for name, network in system.networks.items() if name != "student"}
    rates = {"student": 1.0} | {name: system.apart.get(name, 1.0) for name in others}
    found = {"student": first} | others
    groups = [{"params": group, "rate": rates[name]} for name, group in found.items() if group]
    if not groups:
        raise ValueError("nothing to train: neither the student nor any objective has a trainable parameter")
    if fit.optimizer == "sgd":
        return torch.optim.SGD(groups, fit.lr, momentum=fit.momentum, weight_decay=fit.weight_decay)
    return torch.optim.AdamW(groups, fit.lr, weight_decay=fit.weight_decay)


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights; batch-norm statistics are copied when it is evaluated."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)
