"""SKD on translation, Gemma-7B-it to Gemma-2B-it: Multi30k's German to English stands in for Assamese to English.

The authors' data is not at hand; their settings for it are: 1,000 sentences, prompts of at most 256 tokens and 256 new
ones (their "total length" of 256 is read as that), 10 epochs; the rest as in skd_gsm8k. They score with COMET and BLEU;
here it is BLEU and chrF, greedily, cut at a newline. A pair of languages of your own is a JSON lines file of prompt and
response: `--data.name as_en --data.root as_en.jsonl --data.measures bleu chrf`.

    potstill distill recipes/language/skd_translation.py --data.root MULTI30K --teacher.name ./sft/model

The teacher is first fine-tuned on the task, see docs/language.md. Not run at this size here. Xu et al., ICLR 2025,
arXiv 2410.11325; code google-research/speculative_kd. Smoke: 64 sentences, two new small Llamas.
"""

from dataclasses import replace

from potstill.language.protocols import GEMMA, RELEASED, SEVEN, published
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text


def recipe(smoke: bool = False) -> LanguageRecipe:
    data = Text("multi30k", train_rows=1000, max_prompt=256, max_response=256, too_long="cut")
    title, fit = "SKD on translation, German to English: Gemma-7B-it to Gemma-2B-it", replace(RELEASED, epochs=10)
    return published(title, GEMMA, data, SEVEN, fit, smoke=smoke)
