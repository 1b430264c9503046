"""DistilBERT's task stage on SST-2: every second layer of a fine-tuned BERT-base, taught once more by it.

potstill distill distilbert_sst2

The authors' second step (DistilBERT, section 3, "Knowledge distillation with a second step"), here without the general
stage on plain text: the student's layers are those of the fine-tuned teacher. With it:
--student distilbert/distilbert-base-uncased --student.from-teacher
"""

from dataclasses import replace

from potstill.language.labelled_recipe import LABELLED_FIT, LabelledRecipe
from potstill.language.labelled_spec import LabelledText
from potstill.language.models import LanguageModel


def recipe(smoke: bool = False) -> LabelledRecipe:
    fit = replace(LABELLED_FIT, epochs=1 if smoke else 3, lr=3e-5)
    teacher = LanguageModel("google-bert/bert-base-uncased", dropout=None)
    if smoke:
        teacher = LanguageModel("bert", layers=4, width=32, heads=4, context=128)
    return LabelledRecipe(
        title="DistilBERT's task stage, SST-2",
        data=LabelledText("sst2", train_rows=64 if smoke else None, valid_rows=32 if smoke else None),
        teacher=teacher,
        student=LanguageModel("distilbert", from_teacher=(2,) if smoke else (0, 2, 4, 7, 9, 11), dropout=None),
        vocabulary=200 if smoke else 4000,
        methods=("student", "kd(temperature=2)", "ce:1+kd(temperature=2):5"),
        seeds=1 if smoke else 5,
        fit=fit,
    )
