"""MixKD at the paper's size, SST-2: a BERT-base that is fine-tuned here, and students of its first 6 layers.

potstill distill mixkd_sst2

The teacher comes from the Hugging Face hub; --teacher ./FOLDER takes a copy, and one that is fine-tuned already is not
trained. For 3 layers: --student.from-teacher 3. The paper's rates and weights are not known to us: these are BERT's
for GLUE, and MixKD's own defaults.
"""

from dataclasses import replace

from potstill.language.labelled_recipe import LABELLED_FIT, LabelledRecipe
from potstill.language.labelled_spec import LabelledText
from potstill.language.models import LanguageModel


def recipe(smoke: bool = False) -> LabelledRecipe:
    fit = replace(LABELLED_FIT, epochs=1 if smoke else 4, lr=3e-5)
    teacher = LanguageModel("google-bert/bert-base-uncased", dropout=None)
    if smoke:
        teacher = LanguageModel("bert", layers=4, width=32, heads=4, context=128)
    return LabelledRecipe(
        title="MixKD, SST-2",
        data=LabelledText("sst2", train_rows=64 if smoke else None, valid_rows=32 if smoke else None),
        teacher=teacher,
        student=LanguageModel("teacher", from_teacher=(2 if smoke else 6,), rule="first", dropout=None),
        vocabulary=200 if smoke else 4000,
        methods=("student", "logit_mse", "mixkd", "mixkd(kd=1)"),
        seeds=1 if smoke else 5,
        fit=fit,
    )
