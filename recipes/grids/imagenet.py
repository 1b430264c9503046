"""ImageNet, ResNet-34 → ResNet-18 at 224 pixels: student, KD, CRD, ICD, ICD+KD, DKD, DIST; three seeds.

    potstill bench imagenet --data.root IMAGENET --jobs 8

The recipe is imagenet_r34_r18 (100 epochs, batch 256, drops by 10 after 30, 60 and 90); the data is a folder of class
folders, Parquet or WebDataset shards, or the hub's, and is streamed. A verdict needs five seeds: `--seeds 5`.

    potstill bench imagenet --smoke --data.root ../shared/data/tiny_imagenet_subset
"""

from dataclasses import replace

from potstill import catalogue
from potstill.grid import Grid


def grid(smoke: bool = False) -> Grid:
    recipe, _ = catalogue.recipe("imagenet_r34_r18", smoke)
    if smoke:
        recipe = replace(recipe, methods=recipe.methods[:2])
    return replace(Grid.of(replace(recipe, seeds=1 if smoke else 3)), title=recipe.title)
