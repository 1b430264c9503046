"""Instructions at a size for two cores: 5,000 of Alpaca's, loss and ROUGE-L, 5.2 M to 1.0 M parameters.

SKD's comparison and two neighbours, with models that begin with random weights. What they write is no answer at this
size: the loss on held responses is the measure to look at. Prompts and responses of more than 128 tokens are left out.

    potstill distill instructions_small --data.root INSTRUCTIONS

Smoke: 128 instructions, 1 epoch.
"""

from dataclasses import replace

from potstill.language.models import LanguageModel
from potstill.language.recipe import FIT, LanguageRecipe
from potstill.language.spec import Text

METHODS = ("student", "seqkd", "forward_kl", "on_policy", "gkd", "imitkd", "skd", "distillm", "minillm")


def recipe(smoke: bool = False) -> LanguageRecipe:
    fit = replace(FIT, epochs=1 if smoke else 3, batch_size=32)
    return LanguageRecipe(
        title="Alpaca's instructions",
        data=Text(
            "instructions",
            train_rows=128 if smoke else None,
            valid_rows=16 if smoke else 300,
            max_prompt=64 if smoke else 128,
            max_response=24 if smoke else 128,
            too_long="cut" if smoke else "drop",
        ),
        teacher=LanguageModel(layers=4, width=256, heads=4, context=256),
        student=LanguageModel(layers=2, width=128, heads=2, context=256),
        vocabulary=400 if smoke else 4096,
        methods=METHODS,
        seeds=1 if smoke else 3,
        fit=fit,
        teacher_fit=replace(fit, epochs=1 if smoke else 10),
        judged=16 if smoke else 200,
    )
