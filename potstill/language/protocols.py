"""What several language recipes share: published settings, small pairs for two cores, the smallest size."""

from __future__ import annotations

from dataclasses import replace

from potstill.language.labelled_recipe import LABELLED_FIT, LabelledRecipe
from potstill.language.labelled_spec import LabelledText
from potstill.language.models import LanguageModel
from potstill.language.recipe import FIT, LanguageRecipe
from potstill.language.spec import Text
from potstill.recipe import Fit

SEVEN = ("student", "seqkd", "forward_kl", "on_policy", "gkd", "imitkd", "skd")
"""What SKD is compared with."""
GEMMA = ("google/gemma-7b-it", "google/gemma-2b-it")
QWEN2 = ("Qwen/Qwen2-7B-Instruct", "Qwen/Qwen2-0.5B-Instruct")
GPT2 = ("openai-community/gpt2-xl", "openai-community/gpt2")
RELEASED = Fit(
    epochs=3, batch_size=8, micro_batch=1, optimizer="adamw", lr=1e-5, weight_decay=0.01, schedule="linear", clip=1.0
)
"""SKD's release: AdamW at 1e-5 that falls on a line to 0, clip 1.0, 8 prompts an update, one by one. Decay: ours."""


def published(
    title: str,
    pair: tuple[str, str],
    data: Text,
    methods: tuple[str, ...],
    fit: Fit = RELEASED,
    seeds: int = 3,
    smoke: bool = False,
    architecture: str = "llama",
) -> LanguageRecipe:
    """A pair of the hub at full size; with `smoke` two new small networks on 64 texts."""
    teacher, student = LanguageModel(pair[0], dtype="bfloat16"), LanguageModel(pair[1])
    made = LanguageRecipe(
        title=title, data=data, teacher=teacher, student=student, methods=methods, seeds=seeds, fit=fit
    )
    if not smoke:
        return made
    return replace(
        made,
        title=title.partition(":")[0],
        data=replace(data, chat=False, train_rows=64, valid_rows=16, max_prompt=64, max_response=32),
        teacher=LanguageModel(architecture, layers=2, width=64, heads=2, context=128),
        student=LanguageModel(architecture, layers=1, width=32, heads=2, context=128),
        vocabulary=400,
        seeds=1,
        fit=replace(fit, epochs=1, batch_size=min(fit.batch_size, 16), micro_batch=None, lr=1e-3),
        judged=8,
    )


def small(
    title: str,
    data: Text,
    context: int,
    methods: tuple[str, ...] = SEVEN,
    smoke: bool = False,
    epochs: int = 3,
    batch_size: int = 32,
    layers: int = 4,
    width: int = 256,
) -> LanguageRecipe:
    """A new Llama (of 5 M parameters, where nothing else is said) teaches one of 1 M: for two cores, three seeds."""
    fit = replace(FIT, epochs=1 if smoke else epochs, batch_size=batch_size)
    if smoke:
        data = replace(data, train_rows=128, valid_rows=16, max_prompt=48, max_response=24, too_long="cut")
    return LanguageRecipe(
        title=title,
        data=data,
        teacher=LanguageModel(layers=layers, width=width, heads=width // 64, context=context),
        student=LanguageModel(layers=2, width=128, heads=2, context=context),
        vocabulary=400 if smoke else 4096,
        methods=methods,
        seeds=1 if smoke else 3,
        fit=fit,
        teacher_fit=replace(fit, epochs=1 if smoke else 10),
        judged=16 if smoke else 200,
    )


def mixkd(title: str, name: str, methods: tuple[str, ...], smoke: bool = False) -> LabelledRecipe:
    """BERT-base teaches its own first six layers with MixKD's losses; with `smoke` a tiny BERT its first two."""
    teacher = LanguageModel("google-bert/bert-base-uncased", dropout=None)
    if smoke:
        teacher = LanguageModel("bert", layers=4, width=32, heads=4, context=128)
    return LabelledRecipe(
        title=title,
        data=LabelledText(name, train_rows=64 if smoke else None, valid_rows=32 if smoke else None),
        teacher=teacher,
        student=LanguageModel("teacher", from_teacher=(2 if smoke else 6,), rule="first", dropout=None),
        vocabulary=200 if smoke else 4000,
        methods=methods,
        seeds=1 if smoke else 5,
        fit=replace(LABELLED_FIT, epochs=1 if smoke else 4, lr=3e-5),
    )
