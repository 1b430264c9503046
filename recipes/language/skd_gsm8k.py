"""SKD on GSM8K as released: Gemma-7B-it teaches Gemma-2B-it arithmetic from 1,000 questions, exact match after "####".

K = 25 and drafts of 5 tokens, student sampled at temperature 0.5 and top-p 0.5, teacher at 0.2 and 0.5, forward KL on
every response token. AdamW at 1e-5 that falls on a line to 0 without warm-up, clip 1.0, 3 epochs; 8 prompts an update,
one at a time (8 processes there). Prompts of at most 256 tokens, 768 in all. The weight decay is ours.

The authors first fine-tune the teacher on the task (and, in one setting, the student): see "Fine-tuned first" in
docs/language.md. Their other pair is `--teacher.name Qwen/Qwen2-7B-Instruct --student.name Qwen/Qwen2-0.5B-Instruct`.
Not run at this size here.

    potstill distill recipes/language/skd_gsm8k.py --data.root GSM8K --teacher.name ./sft/model

Xu et al., ICLR 2025, arXiv 2410.11325; code google-research/speculative_kd. Smoke: 64 questions, two new small Llamas.
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
            title="SKD on GSM8K",
            data=Text("gsm8k", train_rows=64, valid_rows=16, max_prompt=64, max_response=32, too_long="cut"),
            teacher=SMALL,
            student=LanguageModel(layers=1, width=32, heads=2, context=128),
            vocabulary=400,
            methods=METHODS,
            fit=replace(FIT, epochs=1, micro_batch=None, lr=1e-3),
            judged=8,
        )
    return LanguageRecipe(
        title="SKD on GSM8K: Gemma-7B-it to Gemma-2B-it",
        data=Text("gsm8k", train_rows=1000, max_prompt=256, max_response=512, too_long="cut"),
        teacher=LanguageModel("google/gemma-7b-it", dtype="bfloat16"),
        student=LanguageModel("google/gemma-2b-it"),
        methods=METHODS,
        seeds=3,
        fit=FIT,
    )
