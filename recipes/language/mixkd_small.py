"""MixKD at a size for one core: SST-2, from an encoder of 4 layers, trained here, to its first 2.

potstill distill mixkd_small --data.root SST2

With little data, 1 % and 10 % of 8,000 sentences (the teacher has 32,000): --data.share 80 --fit.epochs 30, and
--data.share 800 --fit.epochs 10.
"""

from dataclasses import replace

from potstill.language.labelled_recipe import LABELLED_FIT, LabelledRecipe
from potstill.language.labelled_spec import LabelledText
from potstill.language.models import LanguageModel


def recipe(smoke: bool = False) -> LabelledRecipe:
    fit = replace(LABELLED_FIT, epochs=1 if smoke else 2)
    return LabelledRecipe(
        title="MixKD with little data, SST-2",
        data=LabelledText(
            "sst2", train_rows=64 if smoke else 32_000, valid_rows=32 if smoke else None, share=32 if smoke else 8000
        ),
        teacher=LanguageModel("bert", layers=4, width=128, heads=4, context=128, dropout=None),
        student=LanguageModel("teacher", from_teacher=(2,), rule="first", dropout=None),
        vocabulary=200 if smoke else 4000,
        methods=("student", "logit_mse", "mixkd", "mixkd(kd=1)", "mixkd~shuffled"),
        seeds=1 if smoke else 3,
        fit=fit,
    )
