"""What there is: models, data and recipes, read from the code itself. Methods are in `methods_index`."""

from __future__ import annotations

import ast
import importlib.util
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from potstill import demo
from potstill.data import Data
from potstill.errors import did_you_mean
from potstill.grid import Grid
from potstill.language.labelled_recipe import LabelledRecipe
from potstill.language.models import LanguageModel
from potstill.language.recipe import FIT, LanguageRecipe
from potstill.language.spec import Text
from potstill.recipe import Fit, Network, Recipe

AnyRecipe = Recipe | LanguageRecipe | LabelledRecipe
DATA = {
    "digits": "handwritten digits, 8x8 grey, 10 classes; embedded (scikit-learn)",
    "cifar10": "CIFAR-10, 32x32 colour, 10 classes; hub or --data.root",
    "cifar100": "CIFAR-100, 32x32 colour, 100 classes (or 20: --data.label coarse_label); hub or --data.root",
    "fashion_mnist": "Fashion-MNIST, 28x28 grey, 10 classes; hub or --data.root",
    "stl10": "STL-10, 96x96 colour, 10 classes (the labelled images); hub or --data.root",
    "tiny_imagenet": "Tiny ImageNet, 64x64 colour, 200 classes; hub or --data.root",
    "imagenet": "ImageNet, photographs, 1,000 classes; hub (with access) or --data.root",
    "--data.root DIR": "your own: a folder of class folders, Parquet, tar shards, or a CSV of paths and labels",
    "multi30k": "texts: Multi30k, 29,000 sentences, German to English; BLEU, chrF; hub or --data.root",
    "dialogsum": "texts: DialogSum, 12,460 dialogues and summaries; ROUGE-L; hub or --data.root",
    "gsm8k": "texts: GSM8K, 7,473 questions in words, the answer after ####; exact match; hub or --data.root",
    "instructions": "texts: Alpaca's instructions; loss, ROUGE-L; hub or --data.root",
    "self_instruct": "texts: the 175 instructions that Self-Instruct begins with; --data.root",
    "alpaca_eval": "texts: the 805 instructions of AlpacaEval; --data.root",
    "evol_instruct": "texts: 218 evolved instructions; --data.root",
    "ultrafeedback": "texts: 2,000 prompts of UltraFeedback; --data.root",
    "--data.root FILE": "your own texts: JSON lines or Parquet of prompt and response, or of messages",
}
"""Images, then texts."""


def models() -> list[dict[str, Any]]:
    """The zoo, with its size at 100 classes and colour images."""
    import torch

    from potstill.models import MODELS, build

    rows = []
    for name in MODELS:
        with torch.device("meta"):  # sizes only: no weight is drawn
            network: Any = build(name, num_classes=100)
        count = sum(p.numel() for p in network.parameters())
        # The zoo's embedding is always the classifier's input.
        classifier = network.get_submodule(network.taps["embedding"].removesuffix(".input"))
        rows.append({"model": name, "parameters": count, "embedding": classifier.in_features})
    return rows


def data() -> list[dict[str, Any]]:
    """Data sets by name."""
    return [{"data": name, "what": what} for name, what in DATA.items()]


def recipes() -> list[dict[str, Any]]:
    """Recipes that ship, with the first line of their docstring."""
    rows = [{"recipe": "(none)", "what": _first_line(Path(demo.__file__))}]
    return rows + [{"recipe": name, "what": _first_line(path)} for name, path in sorted(_shipped().items())]


def recipe(named: str | None, smoke: bool, root: str | None = None) -> tuple[AnyRecipe, str | None]:
    """A recipe by file or name, and where it came from. Without either: the demo, or one for the user's own data.

    Raises ValueError for a file or name that does not exist, or a file without `recipe(smoke) -> Recipe`.
    """
    if named is None:
        return (own(Path(root), smoke) if root else demo.recipe(smoke)), None
    path = _found(named, "recipe")
    made = _made(path, smoke, "recipe")
    if not isinstance(made, AnyRecipe):
        grid = f"; it is a grid: potstill bench {named}" if isinstance(_made(path, smoke, "grid"), Grid) else ""
        raise ValueError(f"{path} does not define recipe(smoke=False) -> potstill.Recipe{grid}")
    return made, str(named)


def grid(named: str | None, smoke: bool, root: str | None = None) -> tuple[Grid, str | None]:
    """A grid by file or name, and where it came from; a recipe is a grid of one pair.

    Raises ValueError for a file or name that does not exist, or a file without `grid(smoke) -> Grid` and without a
    recipe.
    """
    if named is None:
        made = recipe(None, smoke, root)[0]
        if not isinstance(made, Recipe):
            raise ValueError("a grid compares image classifiers; for texts: potstill distill --data.root FILE")
        return Grid.of(made), None
    path = _found(named, "grid")
    made = _made(path, smoke, "grid") or _made(path, smoke, "recipe")
    if isinstance(made, LanguageRecipe):
        raise ValueError(
            f"{named} is a recipe of language models, and a grid compares image classifiers; all its methods and seeds "
            f"run with: potstill distill {named}"
        )
    if isinstance(made, Recipe):
        made = Grid.of(made)
    if not isinstance(made, Grid):
        raise ValueError(f"{path} does not define grid(smoke=False) -> potstill.Grid, nor a recipe")
    return made, str(named)


def language(named: str | None, smoke: bool, root: str | None = None) -> LanguageRecipe | None:
    """The recipe of language models that a file, a name or data stand for; None where they stand for another kind.

    Raises ValueError for a file or name that does not exist.
    """
    if named is None:
        made = own(Path(root), smoke) if root else None
    else:
        made = _made(_found(named, "recipe or grid"), smoke, "recipe")
    return made if isinstance(made, LanguageRecipe) else None


def _found(named: str, what: str) -> Path:
    path = Path(named) if Path(named).suffix == ".py" else _shipped().get(named)
    if path is None or not path.is_file():
        data = Path(named).exists()
        hint = f"is it data? --data.root {named}" if data else did_you_mean(Path(named).stem, _shipped())
        raise ValueError(f"no {what} {named!r}: expected a Python file or the name of a {what} that ships; {hint}")
    return path


def _made(path: Path, smoke: bool, function: str) -> Any:
    """Run a recipe file. Whatever goes wrong in it is the author's to mend, and is told by file and line."""
    spec = importlib.util.spec_from_file_location(f"potstill_recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None  # the ending is .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, function, None)
        return make(smoke=smoke) if callable(make) else None
    except Exception as error:
        if isinstance(error, SyntaxError):
            line, what = error.lineno, error.msg
        else:
            frames = traceback.extract_tb(error.__traceback__)
            inside = [frame for frame in frames if Path(frame.filename).resolve() == path.resolve()]
            line, what = inside[-1].lineno if inside else None, error
        raise ValueError(f"recipe {path}, line {line or '?'}: {type(error).__name__}: {what}") from error


def own(root: Path, smoke: bool = False) -> Recipe | LanguageRecipe:
    """Where a user starts with data of their own: a small pair, 30 epochs, with and without a teacher."""
    if root.suffix in (".jsonl", ".ndjson"):
        return texts(root, smoke)
    return Recipe(
        title=f"{root.name}: ResNet-20 to ResNet-8",
        data=Data(name=root.stem or "data", root=root),
        teacher=Network("resnet20"),
        student=Network("resnet8"),
        methods=("student", "icd+kd"),
        fit=Fit(epochs=1 if smoke else 30),
    )


def texts(root: Path, smoke: bool = False) -> LanguageRecipe:
    """The same for prompts and responses: two small models that begin with random weights."""
    data, fit = Text(name=root.stem, root=root), FIT
    if smoke:
        data = replace(data, train_rows=16, valid_rows=4, held_out=0.25)  # a first try may have few lines
        fit = replace(FIT, epochs=1, batch_size=8)
    return LanguageRecipe(
        title=f"{root.name}: a small language model from a larger one",
        data=data,
        teacher=LanguageModel(layers=4, width=256, heads=4),
        student=LanguageModel(layers=2, width=128, heads=2),
        methods=("student", "skd"),
        fit=fit,
    )


def _shipped() -> dict[str, Path]:
    """Recipes inside the installed package, in this checkout, and in the current folder."""
    here = Path(__file__).resolve().parent
    found: dict[str, Path] = {}
    for folder in (here / "recipes", here.parent / "recipes", Path("recipes")):
        found |= {path.stem: path for path in sorted(folder.rglob("*.py"))}
    return found


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.splitlines()[0] if text else ""
