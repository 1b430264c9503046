"""What of ICD matters: weight of the invariance term, width of the heads, ceiling of the scale, and its parts alone.

    potstill bench ablation --data.root CIFAR100 --jobs 4

WRN-40-2 → WRN-16-2 on CIFAR-100 by RepDistiller's protocol, five seeds. The paper's own ablation values are not known
to us; these are a proposal. The released code's fixed scale multiplies by 0.07, which makes nearly flat softmaxes; both
it and a true temperature of 0.07 are here.
"""

from potstill.grid import Grid
from potstill.protocols import repdistiller

ARMS = {
    "icd": "icd",  # alpha 0.5, width 128, ceiling 10, trained scale
    **{f"alpha-{alpha:g}": f"icd(alpha={alpha})" for alpha in (0.25, 1.0, 2.0)},
    **{f"width-{width}": f"icd(width={width})" for width in (64, 256, 512)},
    **{f"ceiling-{ceiling:g}": f"icd(ceiling={ceiling})" for ceiling in (5.0, 20.0, 100.0)},
    "fixed-scale": "icd(scale=fixed)",
    "released-fixed-scale": "icd(scale=released_fixed)",
    "contrastive-only": "icd(alpha=0.0)",
    "invariance-only": "icd(contrastive=0.0)",
}


def grid(smoke: bool = False) -> Grid:
    arms = [f"{name}={formula}" if name != formula else name for name, formula in ARMS.items()]
    recipe = repdistiller("wrn_40_2", "wrn_16_2", ("student", "kd", *arms), smoke=smoke, title="What of ICD matters")
    return Grid({"wrn_40_2 → wrn_16_2": recipe}, title=recipe.title)
