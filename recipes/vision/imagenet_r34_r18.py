"""ImageNet: ResNet-34 teaches ResNet-18 at 224 pixels, 100 epochs, from files that are decoded while training.

Protocol: batch 256, SGD with lr 0.1 divided by 10 after epochs 30, 60 and 90, weight decay 1e-4, random resized crops.
Weights are those of the released codes for ImageNet where there are some: DKD with T = 1, beta = 0.5 and one epoch of
warm-up, DIST with tau = 1; the others as on CIFAR-100. No published number stands here: none was read at its source.

    potstill distill recipes/vision/imagenet_r34_r18.py --data.root IMAGENET --teacher.checkpoint resnet34.pth

IMAGENET is train/<class>/*.JPEG and val/<class>/*.JPEG, the hub's Parquet files, or WebDataset shards.
Smoke: 128 images at 32 pixels, 1 epoch.
"""

from potstill.data import USUAL, Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = USUAL["imagenet"].mean, USUAL["imagenet"].std


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="ImageNet: ResNet-34 to ResNet-18",
        data=Data(
            name="imagenet",
            augment="resized-crop-flip",
            size=32 if smoke else 224,
            train_rows=128 if smoke else None,
            valid_rows=64 if smoke else None,
        ),
        teacher=Network("resnet34_imagenet", mean=MEAN, std=STD),
        student=Network("resnet18_imagenet", mean=MEAN, std=STD),
        methods=(
            "student",
            "kd",
            "crd",
            "icd",
            "icd+kd",
            "dkd=dkd(temperature=1,beta=0.5,warm_up=0.01)",
            "dist=dist(temperature=1)",
        ),
        seeds=1,
        fit=Fit(
            epochs=1 if smoke else 100,
            batch_size=32 if smoke else 256,
            lr=0.1,
            weight_decay=1e-4,
            milestones=(0.3, 0.6, 0.9),
        ),
    )
