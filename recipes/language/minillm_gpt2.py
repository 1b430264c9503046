"""MiniLLM's GPT-2 recipe: policy gradient on the reverse KL of whole responses, GPT-2 XL (1.5 B) to GPT-2 (0.1 B).

As in the authors' code: texts of the mixture 0.2 teacher + 0.8 student at temperature 1, rewards divided by 0.5 and
clipped, discount 0.95, clip 0.2, 4 inner epochs, the single-step term, and 0.5 CE + 0.5 forward KL; a constant 5e-6;
prompts of 256 tokens, 512 in all. Beside it the single step alone, and the log-ratio of TRL's simplest form.

What differs: Dolly is not at hand, so Alpaca's instructions stand in (or `--data.name dolly --data.root dolly.jsonl`);
the language-model term is on the same data, not on plain text; rollouts are of 64 texts, not 256; the rate does not
warm up over 100 steps; 16 epochs are 1,248 batches of 64 of its 5,000 instructions, of 4 steps each: about the 5,000
steps of the release. The authors begin with a fine-tuned student and teacher, see docs/language.md. Not run here.

    potstill distill recipes/language/minillm_gpt2.py --data.root INSTRUCTIONS --teacher.name ./sft/model

Gu et al., ICLR 2024, arXiv 2306.08543; code microsoft/LMOps. Smoke: 64 instructions, two new small GPT-2.
"""

from potstill.language.protocols import GPT2, published
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text
from potstill.recipe import Fit

METHODS = (
    "student",
    "forward_kl",
    "on_policy+reverse_kl",
    "log_ratio=minillm(alpha=0,gamma=0,scale=1,inner=1,language=0)",
    "minillm",
)
FIT = Fit(epochs=16, batch_size=64, optimizer="adamw", lr=5e-6, weight_decay=0.01, schedule="constant", clip=1.0)


def recipe(smoke: bool = False) -> LanguageRecipe:
    data = Text("instructions", max_prompt=256, max_response=256, too_long="cut")
    return published("MiniLLM: GPT-2 XL to GPT-2", GPT2, data, METHODS, FIT, seeds=5, smoke=smoke, architecture="gpt2")
