"""SKD on DialogSum as released: Gemma-7B-it teaches Gemma-2B-it to summarise from 1,000 dialogues, ROUGE-L.

Settings as in skd_gsm8k, but for the lengths: prompts of at most 1,024 tokens, 1,152 in all. Summaries of the
validation dialogues are greedy, of at most 128 tokens, and cut at a newline or at "user".

    potstill distill recipes/language/skd_dialogsum.py --data.root DIALOGSUM --teacher.name ./sft/model

The teacher is first fine-tuned on the task, see docs/language.md. Not run at this size here. Xu et al., ICLR 2025,
arXiv 2410.11325; code google-research/speculative_kd. Smoke: 64 dialogues, two new small Llamas.
"""

from potstill.language.protocols import GEMMA, SEVEN, published
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text


def recipe(smoke: bool = False) -> LanguageRecipe:
    data = Text("dialogsum", train_rows=1000, max_prompt=1024, max_response=128, too_long="cut")
    return published("SKD on DialogSum: Gemma-7B-it to Gemma-2B-it", GEMMA, data, SEVEN, smoke=smoke)
