"""Every recipe that ships takes two steps of each of its methods at smoke size, on a little noise."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from potstill.catalogue import recipe
from potstill.cell import assemble
from potstill.compare import checked
from potstill.comparison import Options
from potstill.console import Talk
from potstill.data import Images
from potstill.setting import Setting

RECIPES = sorted(str(path) for path in (Path(__file__).parents[1] / "recipes" / "vision").glob("*.py"))
ROWS, CLASSES = 8, 4
SIZES = {"cifar100": 32, "cifar10": 32, "fashion_mnist": 28, "tiny_imagenet": 32, "imagenet": 32}


def noise(named):
    torch.manual_seed(0)
    side, channels = SIZES[named], 1 if named == "fashion_mnist" else 3
    pixels = torch.randint(0, 256, (ROWS, channels, side, side), dtype=torch.uint8)
    return Images(pixels, torch.arange(ROWS) % CLASSES, tuple("abcd"), named, "train", named)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: Path(path).stem)
def test_every_method_of_a_recipe_takes_two_steps(path, tmp_path):
    made, _ = recipe(path, smoke=True)
    augment = "crop-flip" if made.data.augment == "resized-crop-flip" else made.data.augment
    made = replace(made, data=replace(made.data, augment=augment), fit=replace(made.fit, epochs=1, batch_size=4))
    if made.teacher.budget is not None:
        made = replace(made, teacher=replace(made.teacher, budget=ROWS))
    options = Options(tmp_path, torch.device("cpu"), Talk(quiet=True))
    made, methods = checked(made, options)
    images = noise(made.data.name)
    setting = Setting(made, options.device, images, images)
    teacher = setting.guide(0)
    for method in methods:
        for stage in method.stages:
            engine = assemble(
                setting.student(method, 0, teacher),
                teacher if method.needs_teacher else None,
                method,
                setting.examples(stage.fit(made.fit), 0),
                stage.fit(made.fit),
                stage=stage,
                preprocess=setting.preprocess(made.student, method),
                **setting.others(0),
            )
            history = engine.run().history
            assert engine.step >= 2
            assert history[-1]["loss"] == history[-1]["loss"]
