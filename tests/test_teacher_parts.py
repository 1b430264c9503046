"""Losses that take more from the teacher than a tensor (its classifier, its batch norms), and learnt attention."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters_logits import LOGITS
from torch import nn
from torch.distributions import Normal

from potstill import models
from potstill.objectives import AFD, EGA, OFD, SRRL, ReviewKD, SemCKD, SimKD
from potstill.objectives.ofd import find_batch_norms, margin_of
from potstill.objectives.srrl import find_classifier
from potstill.sources import Network
from potstill.types import DataInfo

GOLDENS = Path(__file__).parent / "goldens"
DATA = DataInfo(50, 4)
TEACHERS = {
    "resnet8": ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"],
    "resnet20": ["layer1.2.bn2", "layer2.2.bn2", "layer3.2.bn2"],
    "wrn_16_2": ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"],
}


def maps(*shapes, rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, *shape, generator=generator, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("number", ["c0", "c1"])
def test_simkd_projector_and_classifier_give_the_published_logits(number):
    with np.load(GOLDENS / "simkd.npz") as arrays:
        case = {k.removeprefix(f"{number}."): torch.from_numpy(v) for k, v in arrays.items() if v.dtype.kind == "f"}
        hyper = json.loads(str(arrays[f"{number}.hyper"]))
    tensors = {k.removeprefix("param.").removeprefix("in."): v for k, v in case.items()}
    objective = LOGITS["simkd"].build(hyper, tensors).double()
    weights = {LOGITS["simkd"].ours(k.removeprefix("param.")): v for k, v in case.items() if k.startswith("param.")}
    objective.load_state_dict(weights, strict=False)
    objective(case["in.f_s"], case["in.f_t"])
    logits = objective.logits
    torch.testing.assert_close(logits, case["out.logits"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("number", ["c0", "c1"])
def test_ofd_margins_are_the_published_ones(number):
    with np.load(GOLDENS / "ofd.npz") as arrays:
        for n in range(2 + int(number[1])):
            weight, bias, margin = (
                torch.from_numpy(arrays[f"{number}.{name}.{n}"])
                for name in ("in.bn_weight", "in.bn_bias", "out.margin")
            )
            torch.testing.assert_close(margin_of(weight, bias), margin, rtol=1e-9, atol=0)


def test_ofd_margin_is_the_mean_of_what_is_negative():
    torch.manual_seed(0)
    drawn = Normal(0.3, 0.7).sample((10**6,))
    margin = margin_of(torch.tensor([-0.7]), torch.tensor([0.3]))
    assert float(margin[0]) == pytest.approx(float(drawn[drawn < 0].mean()), rel=1e-2)
    dead = margin_of(torch.tensor([0.0, 0.0, 1.0, 1e-30]), torch.tensor([0.5, -0.5, 9.0, -2.0]))
    torch.testing.assert_close(dead, torch.tensor([0.0, -0.5, -3.0, -2.0]))


@pytest.mark.parametrize("name", TEACHERS)
def test_ofd_finds_the_batch_norms_in_front_of_the_stages(name):
    network = models.build(name, num_classes=10)
    assert find_batch_norms(dict(network.named_modules())) == TEACHERS[name]


def test_stages_before_activation_by_one_name():
    network = models.build("resnet8", num_classes=10)
    source = Network(network, trained=False, names=network.taps)
    assert source.expand(("stages.pre", "embedding")) == ("stage1.pre", "stage2.pre", "stage3.pre", "embedding")
    plain = Network(nn.Linear(3, 5), trained=False, names={"embedding": "input"})
    for name, first in (("stages", "stage1"), ("stages.pre", "stage1.pre")):
        with pytest.raises(
            ValueError, match=f"Linear has no '{first}': it has no feature map .*the probe found embedding"
        ):
            plain.expand((name,))


def test_ofd_margins_are_no_state():
    network = models.build("resnet8", num_classes=10)
    student, teacher = maps((3, 8, 8), (4, 4, 4)), maps((32, 8, 8), (64, 4, 4))
    ofd = OFD.sized(student, teacher, DATA, dict(network.named_modules())).double()
    assert not any("margin" in name for name in ofd.state_dict())
    assert ofd(student, teacher).shape == (4,)


def test_ofd_asks_for_batch_norms_that_it_cannot_find():
    student, teacher = maps((3, 8, 8)), maps((5, 8, 8))
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    with pytest.raises(ValueError, match="name the taps and the batch norms"):
        OFD.sized(student, teacher, DATA, dict(network.named_modules()))
    with pytest.raises(ValueError, match=r"maps are \[5\] wide, .*\['0'\], \[None\]; name the right ones"):
        OFD.sized(student, teacher, DATA, dict(network.named_modules()), batch_norms=("0",))
    assert OFD.sized(student, teacher, DATA, dict(network.named_modules()), batch_norms=("1",)) is not None


def test_srrl_finds_the_layer_that_answers():
    torch.manual_seed(0)
    teacher = nn.ModuleDict({name: nn.Linear(6, 5) for name in ("first", "answers", "last")})
    embedding = torch.randn(4, 6)
    logits = teacher["answers"](embedding).detach()
    assert find_classifier(embedding, logits, dict(teacher.named_modules())) is teacher["answers"]
    srrl = SRRL.sized(torch.randn(4, 3), (embedding, logits), DATA, dict(teacher.named_modules()))
    assert torch.equal(srrl.classifier_weight, teacher["answers"].weight)
    assert not any("classifier" in name for name in [*srrl.state_dict(), *dict(srrl.named_parameters())])
    bare = nn.Linear(6, 5, bias=False)
    assert SRRL(3, bare)(torch.randn(4, 3), (embedding, logits)).shape == (4,)


def test_srrl_refuses():
    with pytest.raises(ValueError, match=r"no nn.Linear from its embedding \(6\) to its answer \(5 classes\)"):
        SRRL.sized(torch.zeros(4, 3), (torch.zeros(4, 6), torch.zeros(4, 5)), DATA, {})
    with pytest.raises(ValueError, match="address 'embedding,output'"):
        SRRL.sized(torch.zeros(4, 3), torch.zeros(4, 6), DATA, {})


def test_ega_leaves_out_what_is_masked():
    student, teacher = maps((6,), (6,), rows=7)
    ega = EGA(6, 6)
    mask = torch.tensor([True, False, True, True, False, True, True])
    torch.testing.assert_close(ega(student, teacher, mask=mask), ega(student[mask], teacher[mask]))


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_ega_of_constant_embeddings_is_finite(value):
    """The released code divides by their deviation of 0."""
    student, teacher = (torch.randn(5, 9, generator=torch.Generator().manual_seed(n)) for n in range(2))
    student[1], teacher[2] = value, value
    student.requires_grad_()
    loss = EGA(9, 9)(student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert not student.grad[1].any()
    assert student.grad[0].any()


def test_semckd_says_that_the_batch_size_is_fixed():
    student, teacher = maps((2, 4, 4)), maps((3, 4, 4))
    semckd = SemCKD.sized(student, teacher, DATA, {}).double()
    with pytest.raises(
        ValueError, match="a batch of 3, but its attention was built for 4; drop the smaller last batch"
    ):
        semckd(tuple(x[:3] for x in student), tuple(x[:3] for x in teacher))
    with pytest.raises(ValueError, match="factor must lie between 1 and the batch size of 2"):
        SemCKD.sized(student, teacher, DataInfo(50, 2), {})


def test_reviewkd_pairs_its_maps():
    with pytest.raises(ValueError, match="gives 2 maps and the teacher 1"):
        ReviewKD.sized(maps((2, 4, 4), (3,)), maps((2, 4, 4)), DATA, {})


def test_maps_are_asked_for():
    for kind in (SimKD, SemCKD, AFD):
        with pytest.raises(ValueError, match=r"teacher tap has shape \[4, 5\], expected feature maps"):
            kind.sized(maps((2, 4, 4))[0], torch.zeros(4, 5), DATA, {})


def test_afd_is_the_formula():
    """Layer by layer and sample by sample, with the parameters of the objective."""
    student, teacher = maps((2, 4, 4), (3, 2, 2)), maps((4, 4, 3), (3, 2, 2), (5, 4, 3), seed=1)
    afd = AFD([2, 3], [4, 3, 5], width=6).double().eval()

    def unit(vector):
        return vector / math.sqrt(float(vector.square().sum()))

    keys = [key(x.mean((2, 3))).clamp(min=0) for key, x in zip(afd.attention.keys, student, strict=True)]
    total = torch.zeros(4, dtype=torch.float64)
    for t, (layer, h_t) in enumerate(zip(afd.attention.queries, teacher, strict=True)):
        query = layer(h_t.mean((2, 3)))
        for i in range(4):
            scores, distances = [], []
            for s, h_s in enumerate(student):
                key = afd.attention.bilinear(keys[s])[i, 6 * t : 6 * (t + 1)]
                positions = afd.attention.query_positions[t] @ afd.attention.key_positions[s]
                scores.append((key @ query[i] + positions) / 6**0.5)
                pooled = nn.functional.adaptive_avg_pool2d(h_s[i].square().mean(0)[None], h_t.shape[-2:])
                wanted = unit(h_t[i].square().mean(0).flatten())
                distances.append((unit(pooled.flatten()) - wanted).square().mean())
            total[i] += torch.stack(scores).softmax(0) @ torch.stack(distances)
    torch.testing.assert_close(afd(student, teacher), total)
