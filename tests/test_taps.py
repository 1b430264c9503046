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
        "stem": "stem",
        "stage1": "act",
        "stage2": "deep",
        "stage1.pre": "act.input",
        "stage2.pre": "deep.2.input",
        "last_map": "deep",
        "embedding": "head.input",
    }
    assert found.stages == ("stage1", "stage2")  # `hidden` is in between: no map is pooled to the embedding
    assert found.output.shape == (2, 3)


def test_probe_finds_the_usual_taps_of_a_vit(x):
    found = probe(model := Vit(), lambda: model(x))
    assert found.names == {
        "stem": "patch",
        "stage1": "blocks.0.map2x2",
        "stage2": "blocks.1.map2x2",
        "stage1.pre": "blocks.0.map2x2",
        "stage2.pre": "blocks.1.map2x2",
        "last_map": "blocks.1.map2x2",
        "embedding": "head.input",
    }
    read = Taps(model.eval(), {**found.names, "tokens": "blocks.1"})(lambda: model(x))
    assert torch.equal(model.head(read.taps["embedding"]), read.output)
    tokens, last = read.taps["tokens"], read.taps["last_map"]
    assert (tokens.shape, last.shape) == ((2, 5, 16), (2, 16, 2, 2))  # the class token is no pixel
    assert torch.equal(last[1, :, 1, 0], tokens[1, 3])
    last.sum().backward()
    assert model.patch.weight.grad.any()


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


POOLED = {
    "resnet8": "layer3",
    "resnet8x4": "layer3",
    "wrn_16_1": "relu",
    "MobileNetV2": "conv2",
    "ShuffleV1": "layer3",
    "ShuffleV2": "relu2",
    "vgg8": "relu4",
    "small_cnn": "stage3",
}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", POOLED)
def test_the_map_that_is_pooled_to_the_embedding(name, bf16):
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = build(name, num_classes=5)
    with torch.no_grad():
        model(x)  # statistics of its own, so that a batch norm is no identity
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        names = probe(model, lambda: model(x)).names
        taps = Taps(model.eval(), {n: names[n] for n in ("pooled_map", "embedding")})(lambda: model(x)).taps
    assert names["pooled_map"] == POOLED[name]
    pooled = taps["pooled_map"].mean((2, 3)).to(taps["embedding"].dtype)
    torch.testing.assert_close(pooled, taps["embedding"])


class Bare(nn.Module):
    """No module pools: the map of `act` does, within forward; what is pooled is `scale` times it."""

    def __init__(self, scale=1.0, inplace=False):
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 6, 3), nn.ReLU(inplace=inplace), nn.Linear(6, 3)
        self.scale = scale

    def forward(self, x):
        return self.head(self.scale * self.act(self.conv(x)).mean((2, 3)))


def test_pooled_map_of_a_network_of_ones_own(x):
    for inplace in (False, True):
        assert probe(model := Bare(inplace=inplace), lambda m=model: m(x)).names["pooled_map"] == "act"
    assert probe(model := Bare().double(), lambda: model(x.double())).names["pooled_map"] == "act"


def test_no_pooled_map_where_nothing_matches(x):
    for model in (Bare(scale=1.1), Cnn(), Vit()):
        assert "pooled_map" not in probe(model, lambda m=model: m(x)).names
    assert "pooled_map" not in probe(model := Bare(), lambda: model(x[:1])).names  # one row shows too little
    far = Bare()
    far.conv.bias.data[:] = 100.0  # a large common part must not hide that the rest differs
    far.forward = lambda x: far.head(2 * far.act(far.conv(x)).mean((2, 3)) - 100)
    assert "pooled_map" not in probe(far, lambda: far(x)).names


class Tokens(nn.Module):
    """Patches of 4x4 pixels, `prefix` tokens in front, `depth` blocks, the mean of all tokens or the first one."""

    def __init__(self, depth=3, prefix=0, conv=True):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4) if conv else nn.Linear(48, 8)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 8))
        self.body = nn.Module()
        self.body.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        if isinstance(self.patch, nn.Conv2d):
            x = self.patch(x).flatten(2).mT
        else:
            x = self.patch(x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
        x = self.body.blocks(torch.cat([self.prefix.expand(len(x), -1, -1), x], 1))
        return self.head(x[:, 0] if self.prefix.shape[1] else x.mean(1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        x = x + self.attend(x, x, x)[0]
        return x + self.mlp(x)


@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_of_an_image_that_is_no_square(conv, prefix):
    x = torch.randn(2, 3, 8, 16)
    found = probe(model := Tokens(prefix=prefix, conv=conv), lambda: model(x))
    assert found.stages == ("stage1", "stage2", "stage3")
    assert found.names["last_map"] == "body.blocks.2.map2x4"
    assert ("pooled_map" in found.names) == (prefix == 0)
    assert Taps(model, found.names)(lambda: model(x)).taps["stage2"].shape == (2, 8, 2, 4)


def test_at_most_four_blocks_evenly_spaced(x):
    x = torch.randn(2, 3, 16, 16)
    names = probe(model := Tokens(depth=12, prefix=1), lambda: model(x)).names
    blocks = [names[f"stage{number}"] for number in range(1, 5)]
    assert blocks == [f"body.blocks.{number}.map4x4" for number in (2, 5, 8, 11)]
    one = probe(model := Tokens(depth=1), lambda: model(x))
    assert one.names["last_map"] == one.names["pooled_map"] == "body.blocks.map4x4"
    assert one.stages == ("stage1",)


def test_tokens_that_become_a_map_again_are_no_stages(x):
    class Folded(Tokens):
        def __init__(self):
            super().__init__()
            self.neck = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            x = self.body.blocks(self.patch(x).flatten(2).mT)
            return self.head(self.neck(x.mT.unflatten(2, (2, 2))).mean((2, 3)))

    names = probe(model := Folded(), lambda: model(x)).names
    assert names["last_map"] == names["pooled_map"] == names["stage1"] == "neck"


def test_a_sequence_that_is_no_image_has_no_maps():
    body = nn.Sequential(Block(), Block())
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(32, 3))
    assert probe(model, lambda: model(torch.randn(2, 4, 8))).names == {"embedding": "2.input"}


class ChannelsLast(nn.Module):
    """Swin's layout: `[B, H, W, C]` between blocks, with attention of its own shape inside; halved between stages."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 2, stride=2)
        self.stages = nn.ModuleList([nn.Sequential(Window(6), Window(6)), nn.Sequential(Window(12), Window(12))])
        self.merge = nn.Linear(24, 12)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = self.stages[0](self.patch(x).permute(0, 2, 3, 1))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], 3)
        return self.head(self.norm(self.stages[1](self.merge(x))).mean((1, 2)))


class Window(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Linear(width, width)
        self.softmax = nn.Softmax(-1)

    def forward(self, x):
        y = self.norm(x).flatten(1, 2)[:, None]
        y = (self.softmax(y @ y.mT) @ y)[:, 0].unflatten(1, x.shape[1:3])
        return x + self.mlp(y)


def test_channels_last_is_read_as_channels_first():
    x = torch.randn(2, 3, 16, 24)
    found = probe(model := ChannelsLast(), lambda: model(x))
    assert found.names == {
        "stem": "patch",
        "stage1": "stages.0.map",
        "stage2": "norm.map",
        "last_map": "norm.map",
        "pooled_map": "norm.map",
        "embedding": "head.input",
    }
    taps = Taps(model, {**found.names, "raw": "stages.0"})(lambda: model(x)).taps
    assert taps["stage1"].shape == (2, 6, 8, 12)
    assert torch.equal(taps["stage1"][1, :, 2, 3], taps["raw"][1, 2, 3])
    assert taps["last_map"].shape == (2, 12, 4, 6)


def test_channels_last_inside_a_block_is_no_stage(x):
    """ConvNeXt's block: a layer norm and linear layers with the channels last, the result with the channels first."""

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.mlp = nn.Conv2d(4, 4, 3, padding=1), nn.LayerNorm(4), nn.Linear(4, 4)

        def forward(self, x):
            return x + self.mlp(self.norm(self.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Inner(), Inner(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    names = probe(model, lambda: model(x)).names
    assert names == {"stem": "0", "stage1": "2", "last_map": "2", "pooled_map": "2", "embedding": "5.input"}


@pytest.mark.parametrize("inplace", [False, True])
def test_one_activation_for_all_layers(inplace, x):
    """A module that runs often is no place to look; nor is what it changed in place."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
            self.act, self.pool, self.head = nn.ReLU(inplace), nn.MaxPool2d(2), nn.Linear(45, 3)

        def forward(self, x):
            return self.head(self.act(self.two(self.pool(self.act(self.one(x))))).flatten(1))

    x = torch.randn(2, 3, 12, 12)
    found = probe(model := Shared(), lambda: model(x))
    assert found.names["stage1"] == ("pool" if inplace else "one")
    taps = Taps(model, found.names)(lambda: model(x)).taps
    assert taps["last_map"].ndim == 4


def test_map_behind_a_path(x):
    model = Vit()
    taps = Taps(model, {"a": "blocks.0.map", "b": "blocks.0.map1x3", "c": "norm.input.map2x2"})(lambda: model(x)).taps
    assert [taps[name].shape[2:] for name in "abc"] == [(2, 2), (1, 3), (2, 2)]
    for path, wanted in (("blocks.0.map3x2", "3x2"), ("head.map", "square"), ("patch.map9x9", "9x9")):
        with pytest.raises(ValueError, match=rf"tap 'hint'.*has shape.*expected tokens.*a {wanted} map"):
            Taps(model, {"hint": path})(lambda: model(x))
    for path in ("block.0.map", "blocks.0.map.map", "blocks.0.map2", ".map"):
        with pytest.raises(ValueError, match="Vit has no such module"):
            Taps(model, {"hint": path})
    holder = nn.Sequential()
    holder.add_module("map", nn.Conv2d(3, 4, 1))
    assert Taps(holder, {"map": "map"})(lambda: holder(x)).taps["map"].shape == (2, 4, 8, 8)


def test_many_stages_stay_in_order():
    model = nn.Sequential(nn.Conv2d(1, 1, 2), *[nn.AvgPool2d(2, stride=1) for _ in range(10)])
    found = probe(model, lambda: model(torch.randn(1, 1, 14, 14)))
    assert found.stages == tuple(f"stage{n}" for n in range(1, 12))


def everything(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return state, gradients, [m.training for m in model.modules()], hooks(model)


@pytest.mark.parametrize(
    "make", [Cnn, Vit, ChannelsLast, lambda: Cnn(dropout=0.5), lambda: build("resnet8", num_classes=3)]
)
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


class Normalised(nn.Module):
    def forward(self, x):
        return (x - 0.5) / 0.25


class Added(nn.Module):
    """Its sum is made in place by no module, and so destroys what the convolution gave."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.extra, self.act, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        y = self.act(self.first(x))
        z = self.extra(y)
        z += y
        return self.head(self.second(z).mean((2, 3)))


def test_what_prepares_the_input_is_no_stage():
    model = nn.Sequential(
        Normalised(), nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    found = probe(model, lambda: model(torch.randn(4, 3, 9, 9)))
    assert found.names["stage1"] == found.names["last_map"] == "2"
    assert found.names["stem"] == "1"
    assert found.names["stage1.pre"] == "2.input"


def test_maps_that_are_changed_in_place_are_not_named():
    model = Added()
    found = probe(model, lambda: model(torch.randn(4, 3, 8, 8)))
    assert found.names["stage1"] == "act"
    assert found.names["last_map"] == "second"
    x = torch.randn(4, 3, 8, 8)
    Taps(model, {name: found.names[name] for name in ("stage1", "stage2")})(lambda: model(x))
