"""MixKD at the paper's size, SST-2: a BERT-base that is fine-tuned here, and students of its first 6 layers.

potstill distill mixkd_sst2

The teacher comes from the Hugging Face hub; --teacher ./FOLDER takes a copy, and one that is fine-tuned already is not
trained. For 3 layers: --student.from-teacher 3. The paper's rates and weights are not known to us: these are BERT's
for GLUE, and MixKD's own defaults.
"""

from potstill.language.labelled_recipe import LabelledRecipe
from potstill.language.protocols import mixkd


def recipe(smoke: bool = False) -> LabelledRecipe:
    return mixkd("MixKD, SST-2", "sst2", ("student", "logit_mse", "mixkd", "mixkd(kd=1)"), smoke)
