"""GKD by TRL's defaults, on DialogSum: shares and divergences of "On-Policy Distillation of Language Models".

beta 0.5 and lambda 0.5 at temperature 0.9, 128 new tokens, no dropout: TRL's trainer. Beside it both ends, lambda 0
(`jsd`) and lambda 1 (`on_policy+jsd`, which the paper finds best), and the divergences that the paper varies: JSD with
beta 0.9 (its choice for summaries), forward and reverse KL.

The paper distils T5-XL into smaller T5, which are encoder-decoders and cannot be had here: the pair is SKD's
(Gemma-7B-it to Gemma-2B-it), the data DialogSum instead of XSum, and rate, batch and epochs those of SKD's release. The
paper begins with a fine-tuned student, see docs/language.md. Not run at this size here.

    potstill distill recipes/language/gkd_dialogsum.py --data.root DIALOGSUM --teacher.name ./sft/model

Agarwal et al., ICLR 2024, arXiv 2306.13649. Smoke: 64 dialogues, two new small Llamas.
"""

from potstill.language.protocols import GEMMA, published
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text

METHODS = (
    "student",
    "seqkd",
    "jsd",
    "gkd(tokens=128)",
    "on_policy(temperature=0.9,tokens=128)+jsd",
    "on_policy(temperature=0.9,tokens=128)+jsd(beta=0.9)",
    "on_policy(temperature=0.9,tokens=128)+forward_kl",
    "on_policy(temperature=0.9,tokens=128)+reverse_kl",
)
SHORT = tuple(method.replace("tokens=128", "tokens=16") for method in METHODS)


def recipe(smoke: bool = False) -> LanguageRecipe:
    data, methods = Text("dialogsum", max_prompt=1024, max_response=128, too_long="cut"), SHORT if smoke else METHODS
    return published("GKD on DialogSum: Gemma-7B-it to Gemma-2B-it", GEMMA, data, methods, smoke=smoke)
