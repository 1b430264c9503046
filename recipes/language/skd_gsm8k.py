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

from potstill.language.protocols import GEMMA, SEVEN, published
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text


def recipe(smoke: bool = False) -> LanguageRecipe:
    data = Text("gsm8k", train_rows=1000, max_prompt=256, max_response=512, too_long="cut")
    return published("SKD on GSM8K: Gemma-7B-it to Gemma-2B-it", GEMMA, data, SEVEN, smoke=smoke)
