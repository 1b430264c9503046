"""The two arms of the linear probe, against the released script written down step by step."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from potstill.data import Images, Preprocess, Resident, batches
from potstill.hashing import hash_int
from potstill.loop import Interrupted
from potstill.models import build
from potstill.transfer import Protocol, linear_probe

SHORT = Protocol(epochs=8, batch_size=16, views=None)
COUNT = 60  # the last batch of an epoch has 12
PREPARE = Preprocess((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


class Own(nn.Module):
    """No attribute `fc`: the classifier is found by its result."""

    def __init__(self, norm=True, dropout=0.0):
        super().__init__()
        layer = [nn.BatchNorm2d(6)] if norm else []
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *layer, nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.drop = nn.Dropout(dropout)
        self.answer = nn.Linear(24, 7)

    def forward(self, x):
        return self.answer(self.embedded(x))

    def embedded(self, x):
        return self.drop(self.trunk(x).flatten(1))


@pytest.fixture
def network():
    torch.manual_seed(3)
    made = Own()
    with torch.no_grad():  # statistics that are not those of a fresh layer
        for _ in range(5):
            made(torch.randn(20, 3, 12, 12))
    return made


def pictures(count, seed, classes=4):
    """Squares whose place and colour say the class, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 120, (count, 3, 12, 12), generator=generator)
    for number, label in enumerate(labels.tolist()):
        pixels[number, label % 3, 3 * (label // 2) : 3 * (label // 2) + 6, 2:9] += 110
    names = tuple("abcd"[:classes])
    return Images(pixels.to(torch.uint8), labels, names, "squares", "train", f"{seed}")


@pytest.fixture
def data():
    return pictures(COUNT, 0), pictures(40, 1)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def released(network, train, protocol, seed, training):
    """The released script: a new layer, N(0, 0.01²); every epoch fresh crops through the network; three drops."""
    torch.manual_seed(0)
    head = nn.Linear(24, len(train.classes))
    start = linear_probe(network, train, train, replace(protocol, epochs=1, lr=1e-30, weight_decay=0.0), seed=seed).head
    head.load_state_dict(start.state_dict())
    optimizer = torch.optim.SGD(head.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    drops = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4, 6])
    loader = Resident(train, 16, seed=hash_int(0, seed), drop_last=False)
    network.train(training)
    for epoch in range(8):
        for batch in loader.epoch(epoch):
            with torch.no_grad():
                embedded = network.embedded(PREPARE(batch.main.input))
            optimizer.zero_grad()
            F.cross_entropy(head(embedded), batch.main.label).backward()
            optimizer.step()
        drops.step()
    network.eval()
    return head


def accuracy(network, head, valid):
    batch = next(iter(batches(valid, len(valid))))
    with torch.no_grad():
        found = head(network.embedded(PREPARE(batch.main.input))).argmax(1)
    return 100 * (found == batch.main.label).double().mean().item()


def test_the_frozen_arm_is_the_released_steps_on_a_network_in_evaluation_mode(network, data):
    found = linear_probe(network, *data, SHORT, preprocess=PREPARE, seed=5)
    head = released(network, data[0], SHORT, 5, training=False)
    assert torch.allclose(found.head.weight, head.weight, atol=1e-5)
    assert torch.allclose(found.head.bias, head.bias, atol=1e-5)
    assert found.top1 == pytest.approx(accuracy(network, head, data[1]))
    assert found.drift is None


def test_the_drifting_arm_is_the_released_script(network, data):
    before, modes = state(network), [module.training for module in network.modules()]
    found = linear_probe(network, *data, replace(SHORT, arm="drifting"), preprocess=PREPARE, seed=5)
    assert equal(before, state(network))
    assert modes == [module.training for module in network.modules()]
    assert all(parameter.requires_grad for parameter in network.parameters())
    head = released(network, data[0], SHORT, 5, training=True)
    after = state(network)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"trunk.1.running_mean", "trunk.1.running_var", "trunk.1.num_batches_tracked"}
    assert torch.allclose(found.head.weight, head.weight, atol=1e-4)
    assert found.top1 == pytest.approx(accuracy(network, head, data[1]), abs=2.6)  # one of 40
    far = (after["trunk.1.running_mean"] - before["trunk.1.running_mean"]).abs()
    assert found.drift == pytest.approx((far / (before["trunk.1.running_var"] + 1e-5).sqrt()).mean().item(), rel=1e-4)
    assert found.drift > 0.01


def test_the_frozen_arm_leaves_the_network_as_it_was(network, data):
    network.train()
    network.trunk[1].eval()
    before, modes = state(network), [module.training for module in network.modules()]
    linear_probe(network, *data, SHORT)
    assert equal(before, state(network))
    assert modes == [module.training for module in network.modules()]


@pytest.mark.parametrize(
    ("protocol", "times"),
    [
        (replace(SHORT, views=2), 2),
        (replace(SHORT, views=None), 8),
        (replace(SHORT, augment="none"), 1),
        (replace(SHORT, augment="none", views=None), 1),
    ],
)
def test_features_are_computed_once(network, data, protocol, times):
    seen = []
    network.trunk.register_forward_hook(lambda module, args, result: seen.append(len(args[0])))
    linear_probe(network, *data, protocol)
    looked_at = len(seen) and seen[0]
    assert sum(seen) == looked_at + len(data[1]) + times * COUNT


def test_views_are_cycled(network, data):
    """As many views as epochs are what fresh views are; with fewer, epochs repeat them."""
    heads = [linear_probe(network, *data, replace(SHORT, epochs=2, views=views)).head.weight for views in (1, 2, 3)]
    assert torch.equal(heads[1], heads[2])
    assert not torch.allclose(heads[0], heads[1])


def test_the_rate_drops_after_30_60_and_90_of_120_epochs(network):
    found = linear_probe(network, pictures(24, 0), pictures(8, 1), Protocol(batch_size=24, views=1))
    rates = {row["epoch"]: row["lr"] for row in found.history}
    assert list(rates) == list(range(10, 121, 10))
    wanted = {30: 0.05, 40: 0.005, 60: 0.005, 70: 5e-4, 90: 5e-4, 100: 5e-5, 120: 5e-5}
    assert {epoch: rates[epoch] for epoch in wanted} == pytest.approx(wanted)
    assert found.best_top1 == max(row["top1"] for row in found.history)
    assert found.history[-1]["valid_loss"] < found.history[0]["valid_loss"]


@pytest.mark.parametrize("name", ["MobileNetV2", "vgg8", "resnet8x4"])
def test_any_network_of_the_zoo(name):
    torch.manual_seed(0)
    network = build(name, num_classes=9)
    few = replace(pictures(12, 0), images=torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8))
    for arm in ("frozen", "drifting"):
        found = linear_probe(network, few, few, Protocol(arm=arm, epochs=1, batch_size=6, views=1))
        assert found.head.out_features == 4
        assert found.head.in_features == network.get_submodule(network.taps["embedding"][: -len(".input")]).in_features


def test_a_network_without_batch_norm_has_nothing_to_drift(data):
    torch.manual_seed(0)
    network = Own(norm=False)
    with pytest.warns(UserWarning, match="no batch-norm statistics that could drift"):
        drifted = linear_probe(network, *data, replace(SHORT, arm="drifting"), seed=1)
    still = linear_probe(network, *data, SHORT, seed=1)
    assert drifted.drift == 0
    assert torch.allclose(drifted.head.weight, still.head.weight, atol=1e-5)


def test_dropout_is_on_in_training_mode_only(data):
    torch.manual_seed(0)
    network = Own(dropout=0.5)
    one, two = (linear_probe(network, *data, replace(SHORT, arm=arm)).head.weight for arm in ("frozen", "drifting"))
    network.drop.p = 0.0
    assert torch.equal(linear_probe(network, *data, SHORT).head.weight, one)
    assert not torch.allclose(linear_probe(network, *data, replace(SHORT, arm="drifting")).head.weight, two, atol=1e-3)


def test_killed_in_the_drifting_arm(network, data, tmp_path):
    def stopping(label, steps):
        def tell(progress):
            if progress.step == 11:  # inside an epoch
                os.kill(os.getpid(), signal.SIGINT)

        return tell

    protocol = replace(SHORT, arm="drifting")
    with pytest.raises(Interrupted):
        linear_probe(network, *data, protocol, begin=stopping, folder=tmp_path)
    steps = []
    count = lambda label, total: lambda progress: steps.append(progress.step)  # noqa: E731
    again = linear_probe(network, *data, protocol, begin=count, folder=tmp_path)
    assert steps[0] == 12
    whole = linear_probe(network, *data, protocol)
    assert torch.equal(again.head.weight, whole.head.weight)
    assert (again.top1, again.drift) == (whole.top1, whole.drift)


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


def test_what_cannot_be_probed(network, data):
    with pytest.raises(ValueError, match="unknown arm 'frozn'; did you mean 'frozen'"):
        Protocol(arm="frozn")
    with pytest.raises(ValueError, match="views must be at least 1, got 0"):
        Protocol(views=0)
    with pytest.raises(ValueError, match=r"Maps has no 'embedding': no nn.Linear produces its answer"):
        linear_probe(Maps(), *data, SHORT)
    with pytest.raises(ValueError, match="different classes"):
        linear_probe(network, data[0], pictures(9, 1, classes=3), SHORT)
    with pytest.raises(ValueError, match="the probe became NaN or infinite; lower its learning rate"):
        linear_probe(network, *data, replace(SHORT, lr=1e30))
