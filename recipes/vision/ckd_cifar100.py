"""Comparative distillation on CIFAR-100 from N teacher calls: ResNet-110 -> ResNet-32, N = 2,000.

Protocol of the code released with arXiv 2311.02253 (WACV 2025): N images drawn at random, the teacher asked once about
each; a fifth of them is watched; SGD, batches of 64 (comparisons), 13 to 75 steps between two evaluations (0.8 N / 64);
after 50 evaluations without a better one the best weights come back and the rate is a tenth, three times, or 1,000
evaluations. Baselines on the same images and answers. The paper's table is not public in a form that we could read.

    potstill distill recipes/vision/ckd_cifar100.py --data.root CIFAR100 --teacher.checkpoint resnet110.pth

N is 2000, 2500, 3000, 3500, 4000, 4500, 5000 or 6000 there (`--teacher.budget N`); the other pairs are WRN-40-2 ->
WRN-16-2 and VGG-13 -> VGG-8 (`--teacher wrn_40_2 --student wrn_16_2`); the learning rate is 0.1, 0.05 or 0.025, chosen
on the watched images (`--fit.lr`). Without a checkpoint the teacher is trained by RepDistiller's protocol, on all
images. Smoke: 100 calls, 2 epochs.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # the protocol's, not measured on the data


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="CKD on CIFAR-100: ResNet-110 to ResNet-32 with few teacher calls",
        data=Data(name="cifar100", train_rows=640 if smoke else None, valid_rows=200 if smoke else None, watched=0.2),
        teacher=Network("resnet110", mean=MEAN, std=STD, budget=100 if smoke else 2_000),
        student=Network("resnet32", mean=MEAN, std=STD),
        methods=(
            "student",
            "kd=ce:1+kd:1",
            "rkd=black_box(of=rkd)",
            "dist=black_box(of=dist)",
            "crd=black_box(of=crd)",
            "mixup_kd",
            "cutmix_kd",
            "ckd",
            "ckd3=ckd(group=3)",
        ),
        seeds=1 if smoke else 3,
        fit=Fit(epochs=2 if smoke else 1000, schedule="plateau", patience=1 if smoke else 50, drop_last=False),
        teacher_fit=Fit(epochs=1 if smoke else 240),
    )
