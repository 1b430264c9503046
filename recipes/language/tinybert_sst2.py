"""TinyBERT's task stages on SST-2: hidden states and attention of a BERT-base, then its answers, into 4 layers of 312.

potstill distill tinybert_sst2

The teacher is fine-tuned here. The student begins with the authors' general stage, which they have released; after it
10 epochs of intermediate losses and 3 of predictions. The authors also enlarge the data by replacing words;
--data.copies 1 adds texts with words deleted and swapped instead.
"""

from dataclasses import replace

from potstill.language.labelled_recipe import LABELLED_FIT, LabelledRecipe
from potstill.language.labelled_spec import LabelledText
from potstill.language.models import LanguageModel


def recipe(smoke: bool = False) -> LabelledRecipe:
    fit = replace(LABELLED_FIT, epochs=1 if smoke else 3, lr=3e-5)
    teacher = LanguageModel("google-bert/bert-base-uncased", dropout=None)
    student = LanguageModel("huawei-noah/TinyBERT_General_4L_312D", dropout=None)
    if smoke:
        teacher = LanguageModel("bert", layers=4, width=32, heads=4, context=64)
        student = LanguageModel("bert", layers=2, width=24, heads=4, context=64)
    return LabelledRecipe(
        title="TinyBERT, SST-2",
        data=LabelledText("sst2", train_rows=64 if smoke else None, valid_rows=32 if smoke else None, max_length=64),
        teacher=teacher,
        student=student,
        vocabulary=200 if smoke else 4000,
        methods=("student", "kd", "tinybert"),
        seeds=1 if smoke else 5,
        fit=fit,
    )
