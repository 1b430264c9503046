"""Data sets by name: how their rows become prompts and responses, and what their texts are scored with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """What `Text` takes for a data set where the user says nothing."""

    prompt: tuple[str, ...]
    response: str
    measures: tuple[str, ...]
    hub: tuple[str, ...] = ()
    """Name, and configuration if it has several, on the Hugging Face hub."""
    file: str | None = None
    """The file of its own in a folder that several data sets share."""
    several_references: bool = False
    stop: tuple[str, ...] = ()
    """Strings that end a text, as in the release of SKD."""
    skip_empty: bool = False


ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n"
    "### Response:\n",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n",
)
"""Alpaca's two prompts: with an input, and without one."""
_PROMPT_ONLY = (ALPACA[1].replace("{instruction}", "{prompt}"),)

KNOWN = {
    "multi30k": Known(
        ("Translate to English: {de}\n",), "{en}", ("bleu", "chrf"), ("bentrevett/multi30k",), stop=("\n",)
    ),
    "dialogsum": Known(
        ("Summarize the dialogue:\n{dialogue}\nSummary:\n",),
        "{summary}",
        ("rouge_l",),
        ("knkarthick/dialogsum",),
        several_references=True,
        stop=("\n", "user"),
    ),
    "gsm8k": Known(
        ("Question: {question}\nAnswer:\n",), "{answer}", ("exact",), ("openai/gsm8k", "main"), stop=("\n\n",)
    ),
    # Some of Alpaca's outputs are empty: there is nothing to learn from them.
    "instructions": Known(
        ALPACA,
        "{output}",
        ("loss", "rouge_l"),
        ("tatsu-lab/alpaca",),
        file="alpaca_5000.parquet",
        skip_empty=True,
    ),
    "self_instruct": Known(ALPACA, "{output}", ("loss", "rouge_l"), file="self_instruct_seed_175.parquet"),
    "alpaca_eval": Known(ALPACA[1:], "{output}", ("loss", "rouge_l"), file="alpaca_eval_805.parquet"),
    "evol_instruct": Known(
        _PROMPT_ONLY, "{generated_text}", ("loss", "rouge_l"), file="evol_instruct_eval_218.parquet"
    ),
    "ultrafeedback": Known(
        _PROMPT_ONLY, "{generated_text}", ("loss", "rouge_l"), file="ultrafeedback_eval_2000.parquet"
    ),
}

PROMPTS = ("prompt", "question", "instruction", "source", "document")
"""Columns that are taken as the prompt where nothing is said, the first that there is."""
RESPONSES = ("response", "completion", "answer", "output", "target", "summary")
"""The same of the response."""
MESSAGES = "messages"
"""The column of a conversation: a list of objects with `role` and `content`."""
