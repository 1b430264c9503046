"""Arithmetic in words at a size for two cores: GSM8K, from a Llama of 5.2 M parameters to one of 1.0 M.

Numbers are written digit by digit. The exact answer after "####" is what SKD reports; models of this size that begin
with random weights hardly ever find it, and the loss is what tells methods apart. Questions of more than 128 tokens and
answers of more than 256 are left out.

    potstill distill gsm8k_small --data.root GSM8K

Smoke: 128 questions, 1 epoch.
"""

from potstill.language.protocols import small
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text


def recipe(smoke: bool = False) -> LanguageRecipe:
    data = Text("gsm8k", train_rows=4000, valid_rows=300, max_prompt=128, max_response=256, too_long="drop")
    return small("GSM8K", data, context=384, smoke=smoke)
