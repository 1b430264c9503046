"""Translation at a size for two cores: Multi30k, German to English, from a Llama of 2.6 M parameters to one of 1.0 M.

potstill distill translate_small --data.root MULTI30K
"""

from potstill.language.protocols import SEVEN, small
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text


def recipe(smoke: bool = False) -> LanguageRecipe:
    data, methods = Text("multi30k", train_rows=10_000, valid_rows=500), (*SEVEN, "okd")
    return small("Multi30k, German to English", data, 256, methods, smoke, 2, 64, layers=3, width=192)
