"""DistiLLM's GPT-2 recipe: skewed KL and the adaptive scheduler, GPT-2 XL (1.5 B) to GPT-2 (0.1 B).

Skew 0.1 (forward for this size; `distillm+skew_reverse_kl` for 0.3 B and 0.7 B), 20 epochs, batches of 8, AdamW at 5e-4
(1e-4 for 0.7 B) with half a cosine, weight decay 1e-2, clip 1.0; prompts of 256 tokens, 512 in all, as in MiniLLM's
release. Beside it, on the same data, the baselines of its scripts: word-level KL, KL on the teacher's texts (what they
call seqkd), GKD with 0.9 of the student in the mixture (beta 0.1 here), ImitKD's name for student texts alone, and
MiniLLM's single step.

Dolly is not at hand: Alpaca's instructions stand in, or `--data.name dolly --data.root dolly.jsonl`. The authors use
several GPUs, each with a batch of 8; add the language-model loss on OpenWebText, which is left out; and start from a
student fine-tuned for 3 epochs and a fine-tuned teacher, see docs/language.md. Not run at this size here.

    potstill distill recipes/language/distillm_gpt2.py --data.root INSTRUCTIONS --teacher.name ./sft/model

Ko et al., ICML 2024, arXiv 2402.03898; code jongwooko/distillm. Smoke: 64 instructions, two new small GPT-2.
"""

from potstill.language.protocols import GPT2, published
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text
from potstill.recipe import Fit

METHODS = (
    "student",
    "forward_kl",
    "seqkd+forward_kl",
    "gkd+jsd(beta=0.1)",
    "on_policy+forward_kl",
    "on_policy+reverse_kl",
    "distillm",
)
FIT = Fit(epochs=20, batch_size=8, optimizer="adamw", lr=5e-4, weight_decay=0.01, schedule="cosine", clip=1.0)


def recipe(smoke: bool = False) -> LanguageRecipe:
    data = Text("instructions", max_prompt=256, max_response=256, too_long="cut")
    return published("DistiLLM: GPT-2 XL to GPT-2", GPT2, data, METHODS, FIT, seeds=5, smoke=smoke, architecture="gpt2")
