"""MixKD on pairs of sentences with a score, STS-B: a BERT-base that is fine-tuned here, and its first 6 layers.

potstill distill mixkd_stsb

The teacher comes from the Hugging Face hub; --teacher ./FOLDER takes a copy, and one that is fine-tuned already is not
trained. For 3 layers: --student.from-teacher 3. The paper's rates and weights are not known to us: these are BERT's
for GLUE, and MixKD's own defaults.
"""

from potstill.language.labelled_recipe import LabelledRecipe
from potstill.language.protocols import mixkd


def recipe(smoke: bool = False) -> LabelledRecipe:
    return mixkd(
        "MixKD, STS-B", "stsb", ("student", "logit_mse", "mixkd(target=scores)", "mixkd(kd=1,target=scores)"), smoke
    )
