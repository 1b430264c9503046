"""SKD on instructions, Qwen2-7B-Instruct to Qwen2-0.5B-Instruct: Alpaca's instructions stand in for UltraInteract's.

The authors teach mathematics by instructions, on data that is not at hand; their settings for it are: prompts of at
most 1,024 tokens, 2,048 in all, 3 epochs; the rest as in skd_gsm8k. They compare the answer in \\boxed{}; here it is
the loss and ROUGE-L on held prompts, in the tokenizer's chat template. The two embeddings have 152,064 and 151,936 rows
for one tokenizer: what is beyond it is masked.

    potstill distill recipes/language/skd_instructions.py --data.root INSTRUCTIONS --teacher.name ./sft/model

The teacher is first fine-tuned on the task, see docs/language.md. Not run at this size here. Xu et al., ICLR 2025,
arXiv 2410.11325; code google-research/speculative_kd. Smoke: 64 instructions, two new small Llamas.
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
            title="SKD on instructions",
            data=Text("instructions", train_rows=64, valid_rows=16, max_prompt=64, max_response=32, too_long="cut"),
            teacher=SMALL,
            student=LanguageModel(layers=1, width=32, heads=2, context=128),
            vocabulary=400,
            methods=METHODS,
            fit=replace(FIT, epochs=1, micro_batch=None, lr=1e-3),
            judged=8,
        )
    return LanguageRecipe(
        title="SKD on instructions: Qwen2-7B-Instruct to Qwen2-0.5B-Instruct",
        data=Text("instructions", chat=True, max_prompt=1024, max_response=1024, too_long="cut"),
        teacher=LanguageModel("Qwen/Qwen2-7B-Instruct", dtype="bfloat16"),
        student=LanguageModel("Qwen/Qwen2-0.5B-Instruct"),
        methods=METHODS,
        seeds=3,
        fit=FIT,
    )
