"""ImageNet: ResNet-34 teaches ResNet-18 at 224 pixels, 100 epochs, from files that are decoded while training.

Protocol: batch 256, SGD with lr 0.1 divided by 10 after epochs 30, 60 and 90, weight decay 1e-4, random resized crops.
Published top-1 with torchvision's teacher (73.31 %): lone student 69.75 %, KD 70.66, CRD 71.17, DKD 71.70 (all as in
arXiv 2203.08679), DIST 72.07 (arXiv 2205.10536). Weights are the papers' for ImageNet: DKD with T = 1,
beta = 0.5 and one epoch of warm-up, DIST with tau = 1; the others as on CIFAR-100.

    potstill distill recipes/vision/imagenet_r34_r18.py --data.root IMAGENET --teacher.checkpoint resnet34.pth

IMAGENET is train/<class>/*.JPEG and val/<class>/*.JPEG, the hub's Parquet files, or WebDataset shards.
Smoke: 192 images at 32 pixels, 1 epoch.
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
            train_rows=192 if smoke else None,
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
            "dkd(temperature=1,beta=0.5,warm_up=0.01)",
            "dist(temperature=1)",
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
