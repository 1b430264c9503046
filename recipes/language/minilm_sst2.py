"""MiniLMv2 beside the labels of SST-2: the relations of a fine-tuned BERT-base's last layer, into 6 layers of 384.

potstill distill minilm_sst2

The paper distils on plain text and fine-tunes afterwards. Here the student begins with what the authors have released
of that, and their loss stands beside the labels' (ours): 48 relation heads, the teacher's layer 12.
"""

from dataclasses import replace

from potstill.language.labelled_recipe import LABELLED_FIT, LabelledRecipe
from potstill.language.labelled_spec import LabelledText
from potstill.language.models import LanguageModel


def recipe(smoke: bool = False) -> LabelledRecipe:
    fit = replace(LABELLED_FIT, epochs=1 if smoke else 3, lr=3e-5)
    teacher = LanguageModel("google-bert/bert-base-uncased", dropout=None)
    student = LanguageModel("nreimers/MiniLM-L6-H384-uncased", dropout=None)
    if smoke:
        teacher = LanguageModel("bert", layers=4, width=48, heads=4, context=128)
        student = LanguageModel("bert", layers=2, width=24, heads=4, context=128)
    heads = 12 if smoke else 48
    return LabelledRecipe(
        title="MiniLMv2, SST-2",
        data=LabelledText("sst2", train_rows=64 if smoke else None, valid_rows=32 if smoke else None),
        teacher=teacher,
        student=student,
        vocabulary=200 if smoke else 4000,
        methods=("student", "kd", f"minilm(heads={heads})+ce:1"),
        seeds=1 if smoke else 5,
        fit=fit,
    )
