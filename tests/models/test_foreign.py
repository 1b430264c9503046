"""Networks of timm and transformers by name, offline: folders with a configuration, or with weights."""

import json
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from potstill.models import brings_weights, build, check_name, described, load_weights
from potstill.recipe import Network


def config_of(kind="vit", **kw):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
        "resnet": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"},
    }
    sizes["deit"] = sizes["vit"]
    shape = {} if kind == "resnet" else {"image_size": 32, "patch_size": 8}
    return transformers.AutoConfig.for_model(kind, **sizes[kind], **shape, **kw)


@pytest.fixture
def bare(tmp_path):
    """A folder with a configuration and no weights."""
    config_of().save_pretrained(tmp_path / "bare")
    return tmp_path / "bare"


@pytest.fixture
def full(tmp_path):
    """A folder with weights for five classes."""
    transformers = pytest.importorskip("transformers")
    config = config_of(num_labels=5)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "full")
    return tmp_path / "full"


def test_a_configuration_gives_random_weights(bare):
    torch.manual_seed(0)
    one = build(f"transformers:{bare}", num_classes=7)
    torch.manual_seed(0)
    two = build(f"transformers:{bare}", num_classes=7)
    assert one(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert build(f"transformers:{bare}", num_classes=7, in_channels=1)(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert not brings_weights(f"transformers:{bare}", False)


@pytest.mark.parametrize("kind", ["deit", "resnet"])
def test_other_kinds(kind, tmp_path):
    config_of(kind).save_pretrained(tmp_path)
    network = build(f"transformers:{tmp_path}", num_classes=4)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 4)


def test_weights_in_a_folder_are_loaded(full, capsys):
    name = f"transformers:{full}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = build(name, num_classes=5)
    said = capsys.readouterr()
    assert said.out == said.err == ""
    x = torch.randn(2, 3, 32, 32)
    theirs = pytest.importorskip("transformers").AutoModelForImageClassification.from_pretrained(full)
    assert torch.equal(network.eval()(x), theirs(x).logits)
    assert brings_weights(name, False)
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 5)  # grey images in a network for colour
    with pytest.raises(ValueError, match="weights are for 3 channels, and the images have 4"):
        build(name, num_classes=5, in_channels=4)


def test_another_number_of_classes(full):
    name = f"transformers:{full}"
    with pytest.raises(ValueError, match=r"weights are for 5 classes, and 10 are wanted.*outputs to 5.*label_map"):
        build(name, num_classes=10)
    with pytest.warns(UserWarning, match="for 5 classes, and 10 are wanted; it gets a new classifier"):
        network = build(name, num_classes=10, new_head=True)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    key = "vit.embeddings.cls_token"
    assert torch.equal(network.network.state_dict()[key], load_file(full / "model.safetensors")[key])


def test_weights_without_a_head(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.ViTModel(config_of(), add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights lack classifier\.bias, classifier\.weight, so that it knows no cl"):
        build(f"transformers:{tmp_path}", num_classes=3)
    with pytest.warns(UserWarning, match=r"weights lack classifier\.bias.*start at random"):
        build(f"transformers:{tmp_path}", num_classes=3, new_head=True)


def test_built_again_without_its_folder(full):
    arguments = {"name": f"transformers:{full}", "num_classes": 5, "in_channels": 3}
    network = build(**arguments)
    card = json.loads(json.dumps(described(network, {**arguments, "new_head": True})))
    (full / "config.json").unlink()
    again = build(**card)
    assert again.state_dict().keys() == network.state_dict().keys()
    again.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(x), network.eval()(x))
    assert described(nn.Linear(1, 1), arguments) == arguments


def test_a_checkpoint_in_the_networks_own_names(full, bare, tmp_path):
    network = build(f"transformers:{bare}", num_classes=5)
    theirs = pytest.importorskip("transformers").AutoModelForImageClassification.from_pretrained(full)
    torch.save(theirs.state_dict(), tmp_path / "own.pth")
    load_weights(network, tmp_path / "own.pth")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.eval()(x), build(f"transformers:{full}", num_classes=5).eval()(x))


def test_images_of_another_size(bare):
    network = build(f"transformers:{bare}", num_classes=5)
    with pytest.raises(ValueError, match=r"images of 32x32 pixels and was given 28x28.*--teacher\.size 32"):
        network(torch.randn(1, 3, 28, 28))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet9", "did you mean 'resnet8'"),
        ("transformer:google/vit", "did you mean 'transformers:google/vit'"),
        ("timms:resnet18", "did you mean 'timm:resnet18'"),
        ("timm:", "did you mean 'timm:NAME'"),
        ("transformers:./no_such_folder", "there is no folder no_such_folder"),
        ("transformers:./vit_smal", "did you mean 'vit_small'"),
        ("transformers:./vit_small", r"holds no config\.json"),
    ],
)
def test_unknown_names(name, said, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("potstill.models.foreign.find_spec", lambda library: library)
    (tmp_path / "vit_small").mkdir()
    with pytest.raises(ValueError, match=said):
        check_name(name)
    with pytest.raises(ValueError, match=said):
        build(name, num_classes=3)


def test_not_installed(monkeypatch):
    monkeypatch.setattr("potstill.models.foreign.find_spec", lambda library: None)
    for library in ("timm", "transformers"):
        with pytest.raises(ValueError, match=rf"{library} is not installed; pip install 'potstill\[{library}\]'"):
            check_name(f"{library}:some")


def test_what_cannot_be_asked(bare):
    with pytest.raises(ValueError, match="of the zoo, which has no weights to fetch"):
        build("resnet8", num_classes=3, pretrained=True)
    with pytest.raises(ValueError, match="has no argument 'width'"):
        build(f"transformers:{bare}", num_classes=3, width=3)
    with pytest.raises(ValueError, match="holds no weights, only a configuration"):
        build(f"transformers:{bare}", num_classes=3, pretrained=True)
    (bare / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"transformers:.*Unrecognized configuration class"):
        build(f"transformers:{bare}", num_classes=3)
    (bare / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"transformers:.*config"):
        build(f"transformers:{bare}", num_classes=3)


def test_a_teacher_with_weights_is_taught(full, bare):
    assert Network(f"transformers:{full}").taught
    assert not Network(f"transformers:{bare}").taught
    assert not Network("timm:resnet18").taught
    assert Network("timm:resnet18", pretrained=True).taught
    assert Network("resnet8", checkpoint=full / "model.safetensors").taught
    assert not Network("resnet8").taught


@pytest.fixture
def timm(monkeypatch):
    """What is asked of timm, without timm: its import needs a torchvision that fits torch."""
    asked = []

    def create_model(name, **kw):
        asked.append((name, kw))
        return nn.Linear(1, kw["num_classes"])

    names = ["resnet18", "resnet34", "vit_tiny_patch16_224"]
    fake = SimpleNamespace(
        create_model=create_model,
        list_models=lambda: names,
        is_model=lambda name: name in names,
        models=SimpleNamespace(get_pretrained_cfg=lambda name: SimpleNamespace(num_classes=1000)),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.setattr("potstill.models.foreign.find_spec", lambda library: library)
    return asked


def test_timm_by_name(timm):
    build("timm:resnet18", num_classes=7, in_channels=1)
    build("timm:resnet18.a1_in1k", num_classes=1000, pretrained=True)
    assert timm == [
        ("resnet18", {"pretrained": False, "num_classes": 7, "in_chans": 1}),
        ("resnet18.a1_in1k", {"pretrained": True, "num_classes": 1000, "in_chans": 3}),
    ]
    with pytest.raises(ValueError, match=r"timm has no such model; did you mean 'resnet18'"):
        build("timm:resnet17", num_classes=3)
    with pytest.raises(ValueError, match="weights are for 1000 classes, and 3 are wanted"):
        build("timm:resnet18", num_classes=3, pretrained=True)
    with pytest.warns(UserWarning, match="new classifier"):
        build("timm:resnet18", num_classes=3, pretrained=True, new_head=True)


def test_timm_itself():
    timm = pytest.importorskip("timm", exc_type=ImportError)
    assert timm.is_model("resnet18")
    x = torch.randn(2, 1, 64, 64)
    assert build("timm:resnet18", num_classes=7, in_channels=1)(x).shape == (2, 7)
