"""Translation at a size for two cores: Multi30k, German to English, from a Llama of 2.6 M parameters to one of 1.0 M.

potstill distill translate_small --data.root MULTI30K
"""

from dataclasses import replace

from potstill.language.models import LanguageModel
from potstill.language.recipe import FIT, LanguageRecipe
from potstill.language.spec import Text

METHODS = ("student", "seqkd", "forward_kl", "on_policy", "gkd", "imitkd", "skd")


def recipe(smoke: bool = False) -> LanguageRecipe:
    fit = replace(FIT, epochs=1 if smoke else 3, batch_size=64)
    return LanguageRecipe(
        title="Multi30k, German to English",
        data=Text("multi30k", train_rows=256 if smoke else 10_000, valid_rows=32 if smoke else 500),
        teacher=LanguageModel(layers=3, width=192, heads=3, context=256),
        student=LanguageModel(layers=2, width=128, heads=2, context=256),
        vocabulary=400 if smoke else 4096,
        methods=METHODS,
        seeds=1 if smoke else 3,
        fit=fit,
        teacher_fit=replace(fit, epochs=1 if smoke else 10),
        judged=16 if smoke else 200,
    )
