r"""MixKD with little data: SST-2, a student that sees 1 %, 10 % and 100 % of 8,000 sentences.

The teacher is an encoder shaped like BERT (4 layers, width 128), trained here from random weights on 32,000 sentences
of the training split, those of the students among them, with a WordPiece vocabulary of the same text. The student is
its first 2 layers with a new pooler and classifier, and is trained with fine-tuning, KD (squared error of the logits),
MixKD without and with that KD term, and MixKD with a teacher that answers about other texts. Accuracy on the 872
validation sentences, last epoch, n seeds (which sentences a share has, their order, new layers, dropout, pairs and
shares of the mixing; all methods of a seed have the same sentences). A smaller share is shown for more epochs.

Every finished cell is a file in `--out` and is not run again; the teacher is trained once. `--jobs` processes of one
thread each. The whole takes 15 to 30 minutes of one core, depending on what else the machine does.

    python benchmarks/mixkd.py --json benchmarks/results/mixkd.json

Another data set is another folder; where labels are scores (STS-B: Pearson's correlation) the methods are named so:

    python benchmarks/mixkd.py --data ../shared/data/text/stsb --rows 5700 --teacher-rows 5704 --out runs/mixkd_stsb \
        --methods score_mse ce:0+score_mse+logit_mse "mixkd(target=scores)" "mixkd(kd=1,target=scores)"
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import copy
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro

from potstill.cell import assemble, final_evaluation
from potstill.checkpoint import write_json
from potstill.examples import source
from potstill.hashing import hash_int
from potstill.language.labelled import Labelled, read
from potstill.language.labelled_examples import labelled_examples
from potstill.language.labelled_loader import tokenised
from potstill.methods import parse
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.runs import environment

METHODS = ("student", "logit_mse", "mixkd", "mixkd(kd=1)", "mixkd~shuffled")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "sst2"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Arguments:
    """The limited-data study."""

    data: Path = DATA
    methods: tuple[str, ...] = METHODS
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    epochs: tuple[int, ...] = (30, 10, 2)
    """Of each share."""
    seeds: int = 3
    rows: int = 8000
    """What 100 % of the student's data means; the classes have equally many."""
    teacher_rows: int = 32000
    """Sentences that the teacher is trained on; they contain the students'."""
    teacher_epochs: int = 2
    vocabulary: int = 4000
    layers: int = 4
    width: int = 128
    batch_size: int = 32
    lr: float = 5e-4
    jobs: int = 1
    out: Path = Path("runs/mixkd")
    """Teacher and finished cells."""
    json: Path | None = None
    """Also write all results here."""
    smoke: bool = False
    """A few sentences and steps: does it run?"""

    @property
    def small(self) -> Arguments:
        return replace(
            self, rows=200, shares=(0.2, 1.0), epochs=(2, 1), seeds=2, teacher_rows=400, teacher_epochs=1, layers=2,
            width=32, vocabulary=500,
        )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    method: str
    share: float
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        plain = "".join(letter if letter.isalnum() else "-" for letter in self.method)
        return f"{plain}_{self.share:g}_{self.epochs}_{self.seed}"


def main(arguments: Arguments) -> None:
    arguments = arguments.small if arguments.smoke else arguments
    if len(arguments.shares) != len(arguments.epochs):
        raise SystemExit(f"{len(arguments.shares)} shares and {len(arguments.epochs)} epochs: one of each, please")
    fixed = {name: str(value) for name, value in asdict(arguments).items() if name in FIXED}
    about = arguments.out / "about.json"
    if about.exists() and json.loads(about.read_text()) != fixed:
        raise SystemExit(f"{about} is of other settings than these; take another --out")
    write_json(about, fixed)
    if not (arguments.out / "teacher.json").exists():
        in_process(train_teacher, arguments)
    cells = [
        Cell(method, share, epochs, seed)
        for seed in range(arguments.seeds)
        for share, epochs in zip(arguments.shares, arguments.epochs, strict=True)
        for method in arguments.methods
    ]
    waiting = [cell for cell in cells if not path_of(arguments, cell).exists()]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for number, cell in enumerate(pool.map(run_cell, [arguments] * len(waiting), waiting), 1):
            print(f"{number}/{len(waiting)} {cell}", flush=True)
    report(arguments, cells)


FIXED = ("data", "rows", "teacher_rows", "teacher_epochs", "vocabulary", "layers", "width", "batch_size", "lr")
"""Settings that all cells of a folder share."""


def in_process(act: Any, *given: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(act, *given).result()


def path_of(arguments: Arguments, cell: Cell) -> Path:
    return arguments.out / "cells" / f"{cell.name}.json"


def quiet() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)


def splits(arguments: Arguments) -> tuple[Labelled, Labelled]:
    train = read(arguments.data, "train")
    return train, read(arguments.data, "validation", names=train.names)


def train_teacher(arguments: Arguments) -> None:
    """Vocabulary and teacher, on more than the students see."""
    import transformers

    quiet()
    train, valid = splits(arguments)
    train = train.part(arguments.teacher_rows)
    tokenizer = word_pieces(train, arguments.vocabulary)
    tokenizer.save_pretrained(arguments.out / "tokenizer")
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=max(1, arguments.width // 32),
        intermediate_size=4 * arguments.width,
        max_position_embeddings=128,
        num_labels=train.outputs,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    began = time.process_time()
    network = transformers.BertForSequenceClassification(config)
    scores = fitted(
        network,
        None,
        "student" if train.names else "score_mse",
        train,
        valid,
        tokenizer,
        arguments,
        arguments.teacher_epochs,
        0,
    )
    network.save_pretrained(arguments.out / "teacher")
    seconds = round(time.process_time() - began, 1)
    write_json(arguments.out / "teacher.json", {"texts": len(train), "seconds": seconds, **scores})
    print(f"teacher: {worth(scores):.2f} on {len(train):,} texts, {seconds:.0f} s", flush=True)


def worth(scores: dict[str, Any]) -> float:
    """The one number of a table: accuracy, or Pearson's correlation times 100."""
    return scores["accuracy"] if "accuracy" in scores else scores["pearson"]


def word_pieces(texts: Labelled, size: int) -> Any:
    """A lower-case WordPiece vocabulary of these texts, as BERT's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
    inner.train_from_iterator(texts.first + (texts.second or ()), trainer)
    ends = [(name, inner.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_input_names=inputs, **names)


def half(teacher: Any, seed: int) -> Any:
    """The teacher's embeddings and first half of its layers, under a new pooler and classifier."""
    import transformers

    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers //= 2
    torch.manual_seed(hash_int(seed, "student"))
    student = transformers.BertForSequenceClassification(config)
    student.bert.embeddings.load_state_dict(teacher.bert.embeddings.state_dict())
    for own, its in zip(student.bert.encoder.layer, teacher.bert.encoder.layer, strict=False):
        own.load_state_dict(its.state_dict())
    return student


def run_cell(arguments: Arguments, cell: Cell) -> str:
    """Train one student, and keep what it is worth."""
    import transformers

    quiet()
    train, valid = splits(arguments)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(arguments.out / "tokenizer")
    teacher = transformers.BertForSequenceClassification.from_pretrained(arguments.out / "teacher")
    seen = train.part(arguments.rows).part(cell.share, cell.seed)
    began = time.process_time()
    given = seen, valid, tokenizer, arguments, cell.epochs, cell.seed
    scores = fitted(half(teacher, cell.seed), teacher, cell.method, *given)
    seconds = round(time.process_time() - began, 1)
    write_json(path_of(arguments, cell), {**asdict(cell), "texts": len(seen), "seconds": seconds, **scores})
    return f"{cell.method} {100 * cell.share:g} % seed {cell.seed}: {worth(scores):.2f}, {seconds:.0f} s"


def fitted(
    student: Any,
    teacher: Any,
    text: str,
    train: Labelled,
    valid: Labelled,
    tokenizer: Any,
    arguments: Arguments,
    epochs: int,
    seed: int,
) -> dict[str, float]:
    """Train it, and evaluate it on the validation sentences."""
    tokens, held = (tokenised(texts, tokenizer, max_length=128) for texts in (train, valid))
    fit = Fit(
        epochs=epochs,
        batch_size=min(arguments.batch_size, len(tokens)),
        optimizer="adamw",
        lr=arguments.lr,
        weight_decay=0.01,
        schedule="cosine",
        warmup=0.1,
        clip=1.0,
        drop_last=False,
    )
    examples, guide = labelled_examples(tokens, held, fit, seed=seed), None
    if teacher is not None:
        probe, task = examples.probe, examples.task
        guide = source(teacher, probe, trained=False, preprocess=None, precision=Precision(), task=task)
    method = parse(text)
    engine = assemble(
        student, guide if method.needs_teacher else None, method, examples, fit, seed=seed, evaluated=False
    )
    engine.run()
    return final_evaluation(engine, examples, None).scores


def report(arguments: Arguments, cells: list[Cell]) -> None:
    rows = [json.loads(path_of(arguments, cell).read_text()) for cell in cells]
    teacher = json.loads((arguments.out / "teacher.json").read_text())
    settings = {name: value for name, value in asdict(arguments).items() if name not in ("json", "out", "jobs")}
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "settings": {**settings, "data": arguments.data.name},
        "environment": environment(),
        "teacher": teacher,
        "table": list(table(arguments, rows)),
        "cells": rows,
    }
    if arguments.json:
        write_json(arguments.json, found)
    print(f"\nteacher {worth(teacher):.2f} ({teacher['texts']:,} texts); mean ± std\n")
    print("| method | " + " | ".join(f"{share:.0%}" for share in arguments.shares) + " |")
    print("| :-- |" + " --: |" * len(arguments.shares))
    for method in arguments.methods:
        mine = [one for one in found["table"] if one["method"] == method]
        print(f"| {method} | " + " | ".join(f"{one['mean']:.2f} ± {one['std']:.2f}" for one in mine) + " |")
    print(f"\nn = {arguments.seeds} seeds: differences are not powered" if arguments.seeds < 5 else "")


def table(arguments: Arguments, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Mean and deviation of each method and share, and the mean difference to the first method on the same seeds."""
    for method in arguments.methods:
        for share in arguments.shares:
            mine, first = (
                [worth(row) for row in rows if (row["method"], row["share"]) == (name, share)]
                for name in (method, arguments.methods[0])
            )
            gains = [one - other for one, other in zip(mine, first, strict=True)]
            yield {
                "method": method,
                "share": share,
                "n": len(mine),
                "mean": round(mean(mine), 3),
                "std": round(stdev(mine), 3) if len(mine) > 1 else 0.0,
                "gain": round(mean(gains), 3),
                "gain_std": round(stdev(gains), 3) if len(gains) > 1 else 0.0,
            }


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
