"""Taps read any network and leave it alone; the probe finds the usual places."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from potstill.models import build
from potstill.taps import Taps, probe


class Cnn(nn.Module):
    """Two stages at 8x8 and 4x4, pooling, batch norm, an answer through `head`."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.deep = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(dropout)
        self.hidden = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.deep(self.pool(self.act(self.norm(self.stem(x)))))
        return self.head(self.drop(self.hidden(self.squeeze(x).flatten(1)).relu()))


class Vit(nn.Module):
    """Patches, a class token, two transformer blocks, and a head on the class token."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_reads_outputs_and_inputs(x):
    model = Cnn().eval()
    taps = Taps(model, {"hint": "deep.2", "before": "deep.2.input", "embedding": "head.input"})
    outputs = taps(lambda: model(x))
    assert torch.equal(outputs.output, model(x))
    assert torch.equal(outputs.taps["hint"], outputs.taps["before"].relu())
    assert torch.equal(model.head(outputs.taps["embedding"]), outputs.output)
    outputs.taps["hint"].sum().backward()
    assert model.stem.weight.grad.any()
    assert model.head.weight.grad is None


def test_hooks_live_only_in_the_call(x):
    model = Cnn()
    taps = Taps(model, {"hint": "deep", "embedding": "head.input"})
    assert hooks(model) == 0
    during = []
    taps(lambda: during.append(hooks(model)) or model(x))
    assert during == [2]
    assert hooks(model) == 0

    def stumble():
        model(x)
        raise RuntimeError("out of memory, say")

    with pytest.raises(RuntimeError, match="out of memory"):
        taps(stumble)
    assert hooks(model) == 0
    assert taps(lambda: model(x)).taps["hint"].shape == (2, 6, 4, 4)


def test_a_call_gone_wrong_removes_its_hooks(x):
    model = Cnn()
    model.pool = nn.MaxPool2d(2, return_indices=True)
    with pytest.raises(ValueError, match=r"tap 'pool': the output of module 'pool' is a tuple.*tap a submodule"):
        Taps(model, {"pool": "pool"})(lambda: model.pool(x))
    assert hooks(model) == 0


def test_unknown_path_names_what_is_close():
    with pytest.raises(
        ValueError, match=r"tap 'hint' \(module path 'deep\.3'\): Cnn has no such module.*'deep\.[012]'"
    ):
        Taps(Cnn(), {"hint": "deep.3"})
    with pytest.raises(ValueError, match=r"tap 'hed': Cnn has no such module; did you mean 'head'\?"):
        Taps(Cnn(), {"hed": "hed"})
    with pytest.raises(ValueError, match="no such module"):
        Taps(Cnn(), {"all": ""})
    with pytest.raises(ValueError, match="did you mean 'head'"):
        Taps(Cnn(), {"embedding": "heads.input"})


def test_a_module_called_input_is_a_module(x):
    model = nn.Sequential()
    model.add_module("input", nn.Conv2d(3, 4, 1))
    model.add_module("output", nn.Conv2d(4, 5, 1))
    taps = Taps(model, {"a": "input", "b": "input.input", "c": "output.input"})(lambda: model(x.requires_grad_())).taps
    assert taps["a"].shape[1] == 4
    assert taps["b"] is x
    assert taps["c"] is taps["a"]


def test_must_run_exactly_once(x):
    model = Cnn()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="tap 'aux': module 'spare' did not run"):
        Taps(model, {"aux": "spare"})(lambda: model(x))
    with pytest.raises(ValueError, match=r"module 'act' ran 2 times.*runs exactly once"):
        Taps(model, {"act": "act"})(lambda: model.act(model(x)))
    assert hooks(model) == 0


@pytest.mark.parametrize("gradients", [True, False])
def test_changed_in_place_afterwards(x, gradients):
    model = Cnn()
    model.act = nn.ReLU(inplace=True)
    with torch.set_grad_enabled(gradients):
        with pytest.raises(ValueError, match=r"tap 'norm': the tensor of 'norm' was changed in place.*inplace=False"):
            Taps(model, {"norm": "norm"})(lambda: model(x))
        with pytest.raises(ValueError, match="changed in place"):
            Taps(model, {"before": "act.input"})(lambda: model(x))
        assert Taps(model, {"act": "act"})(lambda: model(x)).taps["act"].min() == 0


def test_without_gradient(x):
    model = Cnn().requires_grad_(False)
    taps = Taps(model, {"stem": "stem"})
    with pytest.raises(ValueError, match="tap 'stem': the tensor of 'stem' carries no gradient"):
        taps(lambda: model(x))
    with torch.no_grad():
        assert taps(lambda: model(x)).taps["stem"].shape == (2, 4, 8, 8)
    assert taps(lambda: model(x.clone().requires_grad_())).taps["stem"].requires_grad


def test_module_replaced_after_construction(x):
    model = Cnn()
    taps = Taps(model, {"stem": "stem"})
    model.stem = nn.Conv2d(3, 4, 1)
    assert torch.equal(taps(lambda: model(x)).taps["stem"], model.stem(x))


def test_probe_finds_the_usual_taps_of_a_cnn(x):
    found = probe(model := Cnn(), lambda: model(x))
    assert found.names == {
        "stage1": "act",
        "stage2": "deep",
        "last_map": "deep",
        "embedding": "head.input",
    }
    assert found.stages == ("stage1", "stage2")
    assert found.output.shape == (2, 3)


def test_probe_finds_the_usual_taps_of_a_vit(x):
    found = probe(model := Vit(), lambda: model(x))
    assert found.names == {"stage1": "patch", "last_map": "patch", "embedding": "head.input"}
    read = Taps(model.eval(), found.names)(lambda: model(x))
    assert torch.equal(model.head(read.taps["embedding"]), read.output)


def test_embedding_is_where_the_answer_comes_from(x):
    """The last linear layer that runs is not always the one that answers."""

    class Auxiliary(Cnn):
        def forward(self, x):
            answer = super().forward(x)
            self.hidden(torch.zeros(2, 6))
            return answer

    assert probe(model := Auxiliary(), lambda: model(x)).names["embedding"] == "head.input"

    class NoLinear(Cnn):
        def forward(self, x):
            return super().forward(x).softmax(-1)

    assert "embedding" not in probe(model := NoLinear(), lambda: model(x)).names
    flat = nn.Sequential(nn.Linear(3, 2))
    assert probe(flat, lambda: flat(torch.randn(4, 3))).names == {"embedding": "0.input"}


def test_many_stages_stay_in_order():
    model = nn.Sequential(*[nn.AvgPool2d(2, stride=1) for _ in range(11)])
    found = probe(model, lambda: model(torch.randn(1, 1, 14, 14)))
    assert found.stages == tuple(f"stage{n}" for n in range(1, 12))


def everything(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return state, gradients, [m.training for m in model.modules()], hooks(model)


@pytest.mark.parametrize("make", [Cnn, Vit, lambda: Cnn(dropout=0.5), lambda: build("resnet8", num_classes=3)])
@pytest.mark.parametrize("training", [True, False])
def test_probe_leaves_no_trace(make, training, x):
    torch.manual_seed(0)
    model = make().train(training)
    next(m for m in model.modules() if not list(m.children())).train(not training)  # a mixture of modes stays one
    before = everything(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    found = probe(model, lambda: model(x))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])
    after = everything(model)
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1:] == after[1:]
    with torch.no_grad():
        torch.testing.assert_close(found.output, model.eval()(x))  # no dropout, no statistics of this batch


@pytest.mark.parametrize("replaces", [False, True])
def test_probe_hides_random_numbers_and_updates_of_the_network(x, replaces):
    """Even a network that draws in evaluation mode and moves a buffer, in place or by another tensor."""

    class Noisy(Cnn):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            if replaces:
                self.calls = self.calls + 1
            else:
                self.calls += 1
            return super().forward(x + torch.rand_like(x))

    model = Noisy()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    probe(model, lambda: model(x))
    assert torch.equal(torch.rand(4), expected)
    assert model.calls == 0


def test_probe_after_an_exception(x):
    model = Cnn()
    before = everything(model)
    with pytest.raises(RuntimeError):
        probe(model, lambda: model(x[:, :1]))
    after = everything(model)
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1:] == after[1:]


def test_probe_needs_a_tensor(x):
    model = Cnn()
    with pytest.raises(ValueError, match="Cnn answers with a dict, expected a tensor; wrap it"):
        probe(model, lambda: {"logits": model(x)})


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "small_cnn"])
def test_the_zoos_own_names_win(name, x):
    model = build(name, num_classes=3)
    found = probe(model, lambda: model(x))
    assert found.names.items() >= dict(model.taps).items()
    assert found.stages == ("stage1", "stage2", "stage3")
    taps = Taps(model, found.names)(lambda: model(x)).taps
    assert set(taps) == set(found.names)


def test_own_names_win_over_what_is_found(x):
    model = Cnn()
    model.taps = {"stage1": "stem", "neck": "hidden"}
    found = probe(model, lambda: model(x))
    assert (found.names["stage1"], found.names["neck"], found.names["last_map"]) == ("stem", "hidden", "deep")
    assert found.stages == ("stage1",)  # no guess beside the stages that the network names
