"""Every loss over a whole batch, written out by hand: what any split must give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from potstill.objectives import ICD
from potstill.types import Batch


@dataclass
class Scene:
    """What a formula sees: networks, objectives, the whole batch, and a place to remember things between steps."""

    student: nn.Module
    teacher: nn.Module
    objectives: list[nn.Module]
    batch: Batch
    memory: dict

    def hears(self, network: nn.Module, view: str = "main") -> tuple[Tensor, Tensor, Tensor]:
        """(hidden, embedding, answer) of a network about a view."""
        ready = self.batch.views[view].input.to(network.body.weight.dtype)
        hidden = network.body(ready)
        return hidden, hidden.tanh(), network(ready)

    def both(self, view: str = "main") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(student's embedding, student's answer, teacher's embedding, teacher's answer)."""
        with torch.no_grad():
            _, teacher, taught = self.hears(self.teacher, view)
        _, student, answer = self.hears(self.student, view)
        return student, answer, teacher, taught


def one_ce(logits: Tensor, label: Tensor) -> Tensor:
    return logits.exp().sum().log() - logits[label]


def one_kl(student: Tensor, teacher: Tensor) -> Tensor:
    p = teacher.softmax(0)
    return (p * (p.log() - student.softmax(0).log())).sum()


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def plain_ce(scene: Scene) -> Tensor:
    return mean(one_ce(z, y) for z, y in zip(scene.both()[1], scene.batch.main.label, strict=True))


def plain_kd(scene: Scene) -> Tensor:
    _, answer, _, taught = scene.both()
    return 16 * mean(one_kl(s / 4, t / 4) for s, t in zip(answer, taught, strict=True))


def largest_kd(scene: Scene) -> Tensor:
    """Of the teacher's four classes the two most probable are known, and the others' mass."""
    _, answer, _, taught = scene.both()
    losses = []
    for s, t in zip(answer, taught, strict=True):
        q, p = (s / 4).softmax(0), (t / 4).softmax(0)
        (first, second), rest = t.topk(2).indices.tolist(), t.topk(2, largest=False).indices.tolist()
        classes = [[law[first], law[second], law[rest].sum()] for law in (p, q)]
        losses.append(16 * sum(x * (x / y).log() for x, y in zip(*classes, strict=True)))
    return mean(losses)


def formula_icd(icd: ICD, student: Tensor, teacher: Tensor) -> Tensor:
    u = torch.stack([v / v.norm() for v in icd.student_head(student)])
    v = torch.stack([v / v.norm() for v in icd.teacher_head(teacher)])
    logits = u @ v.T * min(icd.log_scale.exp(), torch.tensor(icd.ceiling)) + icd.bias
    return mean(one_ce(logits[i], i) + icd.alpha * one_kl(logits[i], logits[:, i]) for i in range(len(logits)))


def plain_icd(scene: Scene, which: int = 0, view: str = "main") -> Tensor:
    student, _, teacher, _ = scene.both(view)
    return formula_icd(scene.objectives[which], student, teacher)


def masked_icd(scene: Scene) -> Tensor:
    """Rows that do not count stay as negatives of the others."""
    student, _, teacher, _ = scene.both()
    icd = scene.objectives[0]
    u = torch.stack([v / v.norm() for v in icd.student_head(student)])
    v = torch.stack([v / v.norm() for v in icd.teacher_head(teacher)])
    logits = u @ v.T * icd.log_scale.exp() + icd.bias
    rows = [i for i, counts in enumerate(scene.batch.main.mask.tolist()) if counts]
    return mean(one_ce(logits[i], i) + icd.alpha * one_kl(logits[i], logits[:, i]) for i in rows)


def plain_queue(scene: Scene, which: int = 0) -> Tensor:
    student, _, teacher, _ = scene.both()
    queue = scene.objectives[which]
    bank = scene.memory.setdefault("bank", list(queue.bank.clone()))
    losses = []
    for s, t in zip(queue.head(student), teacher, strict=True):
        losses.append(one_ce(torch.stack([s @ t, *(s @ old for old in bank)]), 0))
    scene.memory["bank"] = [*teacher, *bank][: len(bank)]
    scene.memory["spoken"] = [*student.detach(), *scene.memory.get("spoken", queue.spoken)][: len(bank)]
    scene.memory["seen"] = [*scene.batch.main.index, *scene.memory.get("seen", queue.seen)][: len(bank)]
    return mean(losses)


def on_sphere(rows: Tensor) -> list[Tensor]:
    return [row / row.norm() for row in rows]


def plain_rrd(scene: Scene) -> Tensor:
    """Relations to a queue that the whole batch has just entered."""
    student, _, teacher, _ = scene.both()
    rrd = scene.objectives[0]
    keys = scene.memory.setdefault("queue.keys", list(rrd.queue.keys.clone()))
    place = int(scene.memory.setdefault("queue.pointer", torch.zeros(1, dtype=torch.int64)))
    own = on_sphere(rrd.teacher_head(teacher).detach())
    for number, key in enumerate(own):
        keys[(place + number) % len(keys)] = key
    scene.memory["queue.pointer"] = torch.tensor([(place + len(own)) % len(keys)])
    losses = []
    for u, v in zip(on_sphere(rrd.student_head(student)), own, strict=True):
        ours, theirs = (torch.stack([side @ key for key in keys]) for side in (u, v))
        losses.append(-((theirs / rrd.tau_t).softmax(0) * (ours / rrd.tau_s).softmax(0).log()).sum())
    return mean(losses)


def plain_crd(scene: Scene) -> Tensor:
    """Eq. 18 where the only sample of another class is the last one, so that it is every negative."""
    student, _, teacher, _ = scene.both()
    crd, index = scene.objectives[0], scene.batch.main.index.tolist()
    banks = [scene.memory.setdefault(f"banks.{s}", list(getattr(crd.banks, s).clone())) for s in ("teacher", "student")]
    embeddings = [on_sphere(crd.student_head(student)), on_sphere(crd.teacher_head(teacher))]
    count, samples = crd.others.count, len(banks[0])
    scores = [
        [
            [(e @ bank[j] / crd.banks.temperature).exp() for j in (i, samples - 1)]
            for e, i in zip(es, index, strict=True)
        ]
        for es, bank in zip(embeddings, banks, strict=True)
    ]
    if "banks.normalizer" not in scene.memory:
        means = [samples * mean([s for own, other in side for s in (own, *[other] * count)]) for side in scores]
        scene.memory["banks.normalizer"] = torch.stack(means).detach()
    losses, noise = [], count / samples
    for side, z in zip(scores, scene.memory["banks.normalizer"], strict=True):
        for own, other in side:
            positive = (own / z) / (own / z + noise + 1e-7)
            losses.append(-positive.log() - count * (noise / (other / z + noise + 1e-7)).log())
    for bank, es in zip(banks, reversed(embeddings), strict=True):  # the teacher's bank holds teacher's embeddings
        for i, e in zip(index, es, strict=True):
            bank[i] = on_sphere((bank[i] / 2 + e / 2)[None])[0].detach()
    return 2 * mean(losses)


def plain_normalised(scene: Scene) -> Tensor:
    student, _, teacher, _ = scene.both()
    if "unit" not in scene.memory:
        scene.memory["unit"] = mean([t @ t for t in teacher]) + mean([s.abs().sum() for s in student]).detach()
        scene.memory["first"] = scene.batch.main.index[:5]
        scene.memory["primed"] = torch.tensor(1)
    said = scene.objectives[0].head(student)
    return mean([(s - t).square().sum() / scene.memory["unit"] for s, t in zip(said, teacher, strict=True)])


def plain_drawn(scene: Scene) -> Tensor:
    """With the numbers that the objective was given when it saw all samples at once."""
    draws = scene.memory["draws"].pop(0)
    said = scene.objectives[0].head(scene.hears(scene.student)[0])
    taught = scene.both()[3]
    return mean([d % 997 / 997 * (s - t).square().sum() for d, s, t in zip(draws.tolist(), said, taught, strict=True)])


def tokens(scene: Scene) -> list[Tensor]:
    """CE and KD over the tokens that count, and a distance over the sequences that have any."""
    _, answer, _, taught = scene.both()
    mask, label = scene.batch.main.mask.tolist(), scene.batch.main.label
    kept = [(i, j) for i, row in enumerate(mask) for j, counts in enumerate(row) if counts]
    return [
        mean(one_ce(answer[i, j], label[i, j]) for i, j in kept),
        mean(16 * one_kl(answer[i, j] / 4, taught[i, j] / 4) for i, j in kept),
        mean((answer[i] - taught[i]).square().sum() for i in sorted({i for i, _ in kept})),
    ]


def plain_gram(scene: Scene) -> Tensor:
    student, _, teacher, _ = scene.both()
    kept = [i for i, counts in enumerate(scene.batch.main.mask.tolist()) if counts]
    return mean((student[i] @ student[j] - teacher[i] @ teacher[j]).square() for i in kept for j in kept)


def scores(scene: Scene) -> list[Tensor]:
    """In-batch similarities of the answers, matched row by row, and the diagonal as the label."""
    _, answer, _, taught = scene.both()
    ours, theirs = ([[4 * (a @ b) for b in side] for a in side] for side in (answer, taught))
    rows = [(torch.stack(s), torch.stack(t)) for s, t in zip(ours, theirs, strict=True)]
    return [mean(16 * one_kl(s / 4, t / 4) for s, t in rows), formula_icd(scene.objectives[1], *scene.both()[::2])]


def differences(scene: Scene) -> list[Tensor]:
    """A unit term and ICD on the difference of two views, ICD on one of them, CE on the main one."""
    main, other = scene.both(), scene.both("other")
    student, answer, teacher, taught = (a - b for a, b in zip(main, other, strict=True))
    return [
        plain_ce(scene),
        mean((s - t).square().sum() for s, t in zip(answer, taught, strict=True)),
        formula_icd(scene.objectives[2], student, teacher),
        plain_icd(scene, 3, "other"),
    ]
