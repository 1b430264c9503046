"""SKD on DialogSum as released: Gemma-7B-it teaches Gemma-2B-it to summarise from 1,000 dialogues, ROUGE-L.

Settings as in skd_gsm8k, but for the lengths: prompts of at most 1,024 tokens, 1,152 in all. Summaries of the
validation dialogues are greedy, of at most 128 tokens, and cut at a newline or at "user".

    potstill distill recipes/language/skd_dialogsum.py --data.root DIALOGSUM --teacher.name ./sft/model

The teacher is first fine-tuned on the task, see docs/language.md. Not run at this size here. Xu et al., ICLR 2025,
arXiv 2410.11325; code google-research/speculative_kd. Smoke: 64 dialogues, two new small Llamas.
"""

from dataclasses import replace

from potstill.language.models import LanguageModel
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text
from potstill.recipe import Fit

METHODS = ("student", "seqkd", "forward_kl", "on_policy", "gkd", "imitkd", "skd")
SMALL = LanguageModel(layers=2, width=64, heads=2, context=128)
FIT = Fit(
    epochs=3, batch_size=8, micro_batch=1, optimizer="adamw", lr=1e-5, weight_decay=0.01, schedule="linear", clip=1.0
)


def recipe(smoke: bool = False) -> LanguageRecipe:
    if smoke:
        return LanguageRecipe(
            title="SKD on DialogSum",
            data=Text("dialogsum", train_rows=64, valid_rows=16, max_prompt=64, max_response=32, too_long="cut"),
            teacher=SMALL,
            student=LanguageModel(layers=1, width=32, heads=2, context=128),
            vocabulary=400,
            methods=METHODS,
            fit=replace(FIT, epochs=1, micro_batch=None, lr=1e-3),
            judged=8,
        )
    return LanguageRecipe(
        title="SKD on DialogSum: Gemma-7B-it to Gemma-2B-it",
        data=Text("dialogsum", train_rows=1000, max_prompt=1024, max_response=128, too_long="cut"),
        teacher=LanguageModel("google/gemma-7b-it", dtype="bfloat16"),
        student=LanguageModel("google/gemma-2b-it"),
        methods=METHODS,
        seeds=3,
        fit=FIT,
    )
