"""SKD on instructions, Qwen2-7B-Instruct to Qwen2-0.5B-Instruct: Alpaca's instructions stand in for UltraInteract's.

The authors teach mathematics by instructions, on data that is not at hand; their settings for it are: prompts of at
most 1,024 tokens, 2,048 in all, 3 epochs; the rest as in skd_gsm8k. They compare the answer in \\boxed{}; here it is
the loss and ROUGE-L on held prompts, in the tokenizer's chat template. The two embeddings have 152,064 and 151,936 rows
for one tokenizer: what is beyond it is masked.

    potstill distill recipes/language/skd_instructions.py --data.root INSTRUCTIONS --teacher.name ./sft/model

The teacher is first fine-tuned on the task, see docs/language.md. Not run at this size here. Xu et al., ICLR 2025,
arXiv 2410.11325; code google-research/speculative_kd. Smoke: 64 instructions, two new small Llamas.
"""

from potstill.language.protocols import QWEN2, SEVEN, published
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text


def recipe(smoke: bool = False) -> LanguageRecipe:
    data = Text("instructions", chat=True, max_prompt=1024, max_response=1024, too_long="cut")
    return published("SKD on instructions: Qwen2-7B-Instruct to Qwen2-0.5B-Instruct", QWEN2, data, SEVEN, smoke=smoke)
