"""Instructions at a size for two cores: 5,000 of Alpaca's, loss and ROUGE-L, 5.2 M to 1.0 M parameters.

SKD's comparison and two neighbours, with models that begin with random weights. What they write is no answer at this
size: the loss on held responses is the measure to look at. Prompts and responses of more than 128 tokens are left out.

    potstill distill instructions_small --data.root INSTRUCTIONS

Smoke: 128 instructions, 1 epoch.
"""

from potstill.language.protocols import SEVEN, small
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text


def recipe(smoke: bool = False) -> LanguageRecipe:
    data = Text("instructions", valid_rows=300, max_prompt=128, max_response=128, too_long="drop")
    return small("Alpaca's instructions", data, 256, (*SEVEN, "distillm", "minillm"), smoke=smoke)
