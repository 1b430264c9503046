"""Arithmetic in words at a size for two cores: GSM8K, from a Llama of 5.2 M parameters to one of 1.0 M.

Numbers are written digit by digit. The exact answer after "####" is what SKD reports; models of this size that begin
with random weights hardly ever find it, and the loss is what tells methods apart. Questions of more than 128 tokens and
answers of more than 256 are left out.

    potstill distill gsm8k_small --data.root GSM8K

Smoke: 128 questions, 1 epoch.
"""

from dataclasses import replace

from potstill.language.models import LanguageModel
from potstill.language.recipe import FIT, LanguageRecipe
from potstill.language.spec import Text

METHODS = ("student", "seqkd", "forward_kl", "on_policy", "gkd", "imitkd", "skd")


def recipe(smoke: bool = False) -> LanguageRecipe:
    fit = replace(FIT, epochs=1 if smoke else 3, batch_size=32)
    return LanguageRecipe(
        title="GSM8K",
        data=Text(
            "gsm8k",
            train_rows=128 if smoke else 4000,
            valid_rows=16 if smoke else 300,
            max_prompt=48 if smoke else 128,
            max_response=24 if smoke else 256,
            too_long="cut" if smoke else "drop",
        ),
        teacher=LanguageModel(layers=4, width=256, heads=4, context=384),
        student=LanguageModel(layers=2, width=128, heads=2, context=384),
        vocabulary=400 if smoke else 4096,
        methods=METHODS,
        seeds=1 if smoke else 3,
        fit=fit,
        teacher_fit=replace(fit, epochs=1 if smoke else 10),
        judged=16 if smoke else 200,
    )
