"""Summaries at a size for two cores: DialogSum, ROUGE-L, from a Llama of 5.2 M parameters to one of 1.0 M.

SKD's comparison on its second task, with models that begin with random weights. Dialogues keep their last 192 tokens.

    potstill distill dialogsum_small --data.root DIALOGSUM

Smoke: 128 dialogues, 1 epoch.
"""

from dataclasses import replace

from potstill.language.models import LanguageModel
from potstill.language.recipe import FIT, LanguageRecipe
from potstill.language.spec import Text

METHODS = ("student", "seqkd", "forward_kl", "on_policy", "gkd", "imitkd", "skd")


def recipe(smoke: bool = False) -> LanguageRecipe:
    fit = replace(FIT, epochs=1 if smoke else 3, batch_size=32)
    return LanguageRecipe(
        title="DialogSum",
        data=Text(
            "dialogsum",
            train_rows=128 if smoke else 6000,
            valid_rows=16 if smoke else 300,
            max_prompt=48 if smoke else 192,
            max_response=24 if smoke else 64,
            too_long="cut",
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
