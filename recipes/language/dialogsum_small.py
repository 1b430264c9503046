"""Summaries at a size for two cores: DialogSum, ROUGE-L, from a Llama of 5.2 M parameters to one of 1.0 M.

SKD's comparison on its second task, with models that begin with random weights. Dialogues keep their last 192 tokens.

    potstill distill dialogsum_small --data.root DIALOGSUM

Smoke: 128 dialogues, 1 epoch.
"""

from potstill.language.protocols import small
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text


def recipe(smoke: bool = False) -> LanguageRecipe:
    data = Text("dialogsum", train_rows=6000, valid_rows=300, max_prompt=192, max_response=64, too_long="cut")
    return small("DialogSum", data, context=256, smoke=smoke)
