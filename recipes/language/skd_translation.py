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

from potstill.language.models import LanguageModel
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text
from potstill.recipe import Fit

METHODS = ("student", "seqkd", "forward_kl", "on_policy", "gkd", "imitkd", "skd")
SMALL = LanguageModel(layers=2, width=64, heads=2, context=128)
FIT = Fit(
    epochs=10, batch_size=8, micro_batch=1, optimizer="adamw", lr=1e-5, weight_decay=0.01, schedule="linear", clip=1.0
)


def recipe(smoke: bool = False) -> LanguageRecipe:
    if smoke:
        return LanguageRecipe(
            title="SKD on translation",
            data=Text("multi30k", train_rows=64, valid_rows=16, max_prompt=64, max_response=32, too_long="cut"),
            teacher=SMALL,
            student=LanguageModel(layers=1, width=32, heads=2, context=128),
            vocabulary=400,
            methods=METHODS,
            fit=replace(FIT, epochs=1, micro_batch=None, lr=1e-3),
            judged=8,
        )
    return LanguageRecipe(
        title="SKD on translation, German to English: Gemma-7B-it to Gemma-2B-it",
        data=Text("multi30k", train_rows=1000, max_prompt=256, max_response=256, too_long="cut"),
        teacher=LanguageModel("google/gemma-7b-it", dtype="bfloat16"),
        student=LanguageModel("google/gemma-2b-it"),
        methods=METHODS,
        seeds=3,
        fit=FIT,
    )
