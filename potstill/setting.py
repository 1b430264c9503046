"""A recipe made real: its data on the device, and its networks, sources and loaders built on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from potstill.adapting import adapted
from potstill.budget import budgeted, seen_by_students
from potstill.cache import PROBE_ROWS, read_about
from potstill.cached import Cached
from potstill.cell import assemble, choose_precision
from potstill.data import Preprocess, Split, batches, first, training
from potstill.data.degrade import tail_accuracy
from potstill.data.subset import Lesson, lesson
from potstill.examples import Examples, source
from potstill.hashing import hash_int
from potstill.methods import Method
from potstill.models import build, described, load_weights
from potstill.precision import Choice, Precision
from potstill.ranks import rank, world_size
from potstill.recipe import Fit, Network, Recipe
from potstill.sources import Network as Live
from potstill.tasks.classify import Evaluation
from potstill.types import DataInfo, Source
from potstill.unlabelled import answered

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Setting:
    """Everything of a recipe that is the same for all its cells."""

    recipe: Recipe
    device: torch.device
    train: Split
    valid: Split
    cached: Cached | None = None
    """What speaks for the teacher instead of the network."""

    @property
    def digests(self) -> dict[str, str]:
        """What tells this data from other data."""
        return {"train": self.train.digest, "valid": self.valid.digest}

    @property
    def learns_from(self) -> dict[str, Any]:
        """What the weights of a teacher depend on, its network and its training left aside."""
        data = self.recipe.data
        return {"data": self.train.digest, "augment": [data.augment, data.data_seed, data.views]}

    @property
    def side_by_side(self) -> bool:
        """All students see the same batches, and are trained together."""
        return self.recipe.data.order == "shared"

    @property
    def lessons(self) -> int:
        """How many trainings come before the students', for the progress bar."""
        return 1 + (self.recipe.teacher.budget is not None)

    @property
    def notes(self) -> list[str]:
        """What a user should know of how the data was read."""
        own = () if self.lesson.seen is self.train else (self.lesson.note,)
        return list(dict.fromkeys(self.train.notes + self.valid.notes + own))

    @cached_property
    def lesson(self) -> Lesson:
        """What students see of the training images."""
        return lesson(self.train, self.recipe.data, seen_by_students(self.recipe))

    def tail_top1(self, predictions: Tensor) -> float | None:
        """Accuracy on the rarest classes of the training data, where that has a long tail."""
        if self.recipe.data.imbalance == 1:
            return None
        return tail_accuracy(predictions, self.valid.labels.to(predictions.device), len(self.train.classes))

    def network(self, spec: Network, role: str, seed: int) -> nn.Module:
        """A network of the recipe, initialised as a function of (seed, role), with its checkpoint if it has one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash_int(seed, role))
            module = build(**self.architecture(spec), pretrained=spec.pretrained, new_head=role == "student")
        if spec.checkpoint is not None:
            load_weights(module, spec.checkpoint)
        return module.to(self.device)

    def student(self, method: Method, seed: int, teacher: Source | None) -> nn.Module:
        """The student as this method trains it."""
        spec = self.recipe.student
        module = self.network(spec, "student", seed)
        examples, preprocess = self.examples(self.recipe.fit, seed), self.preprocess(spec)
        return adapted(module, teacher, method, examples, seed=seed, preprocess=preprocess, fresh=self.fresh(seed))

    @property
    def classes(self) -> int:
        """How many classes are answered with: those of the data, or where that has no labels, those of the teacher."""
        return len(self.train.classes) if self.train.labelled else answered(self.recipe.teacher)

    def architecture(self, spec: Network) -> dict[str, Any]:
        """What `potstill.models.build` needs."""
        options = {k: v for k, v in (("width", spec.width), ("depth", spec.depth)) if v is not None}
        return {
            "name": spec.name,
            "num_classes": spec.outputs or self.classes,
            "in_channels": self.train.channels,
            **options,
        }

    def preprocess(self, spec: Network, method: Method | None = None) -> Preprocess:
        """A network's own normalisation; the training data's where the recipe does not say.

        A student that `method` adapts answers in the classes of the data: it has no label map.
        """
        if (spec.mean is None) != (spec.std is None):
            raise ValueError(f"network {spec.name!r}: give both mean and std, or neither")
        mapped = None if method is not None and method.adapts else spec.label_map
        if spec.mean is not None:
            return Preprocess(spec.mean, spec.std, spec.size, mapped)
        return replace(Preprocess.of(self.train), size=spec.size, label_map=mapped)

    def card(self, module: nn.Module, spec: Network, method: Method | None, found: Evaluation) -> dict[str, Any]:
        """What `student.json` says of a network: enough to load and serve it."""
        return {
            "model": described(module, self.architecture(spec)),
            "classes": list(self.train.classes),
            "channels": self.train.channels,
            "size": list(self.train.size),
            "part": self.train.part,
            "preprocess": self.preprocess(spec, method).describe(),
            "data": self.train.name,
            "method": "registered" if method is None else method.name,
            **(found.reached if method is None or method.classifies else dict.fromkeys(found.reached)),
        }

    def teacher(self, module: nn.Module, precision: Precision | None = None, spec: Network | None = None) -> Live:
        """A frozen source: the recipe's teacher, or a network that `spec` describes."""
        probe = first(self.train, 4, self.device)
        spec = spec or self.recipe.teacher
        return source(
            module, probe, trained=False, preprocess=self.preprocess(spec), precision=precision or Precision()
        )

    def with_cache(self, seed: int) -> Setting:
        """The same with what stands in for the teacher, where the recipe names one.

        Raises ValueError for a cache that is not whole, or is of another teacher, other data or another augmentation.
        """
        spec, data = self.recipe.teacher, self.recipe.data
        if spec.cache is None:
            return self
        cached = Cached(spec.cache, data.views)
        about = cached.about
        live = self.teacher(self.network(spec, "teacher", seed), Precision.named(about.precision))
        now = replace(
            about,
            teacher=live.fingerprint,
            data=self.train.digest,
            samples=len(self.train),
            augment=data.augment,
            data_seed=data.data_seed,
        )
        if different := about.differences(now):
            raise ValueError(
                f"the cache {spec.cache} is not of this recipe's teacher, data and augmentation; they differ in "
                f"{'; '.join(different)}; write another with potstill cache, or leave out teacher.cache"
            )
        return replace(self, cached=cached)

    def guide(self, seed: int) -> Source:
        """Who speaks for the teacher before it is trained or loaded: the cache, or a network like it."""
        return self.cached or self.limited(self.teacher(self.network(self.recipe.teacher, "teacher", seed)))

    def limited(self, teacher: Source) -> Source:
        """The teacher within its budget, of which nothing is spent yet; itself where it has none."""
        budget, data = self.recipe.teacher.budget, self.recipe.data
        if budget is None:
            return teacher
        return budgeted(teacher, budget, self.lesson.seen, data.augment, data.data_seed)

    def others(self, seed: int, precision: Precision | None = None) -> dict[str, Any]:
        """What else `assemble` may need: assistants as they are before they are trained, and how peers begin."""
        assistants = {
            one.name: self.teacher(self.network(one.network, one.name, seed), precision, one.network)
            for one in self.recipe.assistants
        }
        return {"assistants": assistants, "fresh": self.fresh(seed)}

    def fresh(self, seed: int) -> Callable[[str], nn.Module]:
        """Makes networks like the student, whose initial weights are a function of (seed, name)."""
        return lambda name: self.network(self.recipe.student, name, seed)

    def order(self, seed: int) -> int | None:
        """What the order of a student's batches depends on, beside `data.data_seed`: its seed, or nothing."""
        return None if self.recipe.data.order == "shared" else seed

    def examples(self, fit: Fit, seed: int | None, whole: bool = False) -> Examples:
        """Loader and validation data; without a seed in the order that all students share.

        `whole`: of all training images, and not only of those that students see.
        """
        data, watched = self.recipe.data, None if whole else self.lesson.watched
        images = self.train if whole else self.lesson.trained
        loader = training(
            images,
            fit.batch_size,
            augment=data.augment,
            seed=hash_int(data.data_seed, "shared" if seed is None else seed),
            views=data.views,
            view_seed=None if data.views is None else data.data_seed,
            device=self.device,
            rank=rank(),
            world=world_size(),
            drop_last=fit.drop_last,
        )
        labels = images.labels if images.labelled else None
        info = DataInfo(len(images), loader.batch_size, len(images.classes) or None, labels)
        return Examples(
            loader,
            info,
            first(images, PROBE_ROWS, self.device),
            lambda: batches(self.valid, EVALUATION_BATCH, self.device),
            lambda: batches(images, EVALUATION_BATCH, self.device),
            None if watched is None else lambda: batches(watched, EVALUATION_BATCH, self.device),
        )

    def check(self, methods: list[Method], seed: int) -> None:
        """Build everything once, on throw-away copies, so that mistakes show before the first step."""
        fit, student = self.recipe.fit, self.recipe.student
        teacher = self.guide(seed)
        for method in methods:
            for stage in method.stages:
                assemble(
                    self.student(method, seed, teacher),
                    teacher if method.needs_teacher else None,
                    method,
                    self.examples(fit, seed),
                    fit,
                    stage=stage,
                    **self.others(seed),
                    preprocess=self.preprocess(student, method),
                )

    def measure(self, methods: list[Method], seed: int, rounds: int = 5, compiling: bool = False) -> Choice:
        """The fastest precision for a step of these methods, by the median of so many; see `choose_precision`."""
        method = next((m for m in reversed(methods) if m.needs_teacher), methods[0])
        paid = self.cached is not None or self.recipe.teacher.budget is not None
        teacher = self.guide(seed) if paid else self.network(self.recipe.teacher, "teacher", seed)
        return choose_precision(
            self.student(method, seed, self.guide(seed) if method.needs_teacher else None),
            teacher if method.needs_teacher else None,
            method,
            self.examples(self.recipe.fit, seed),
            self.recipe.fit,
            self.preprocess(self.recipe.student, method),
            self.preprocess(self.recipe.teacher),
            rounds,
            compiling,
            **self.others(seed),
        )


def with_views(recipe: Recipe) -> Recipe:
    """The recipe with as many views as the cache of its teacher holds, where it does not say how many.

    Raises ValueError for a student with a cache, for a cached teacher without weights to check it against, and where
    there is no cache.
    """
    seen_by_students(recipe)
    if recipe.student.cache is not None:
        raise ValueError("student.cache: the student is trained, so it cannot be cached; set teacher.cache")
    if recipe.teacher.cache is None:
        return recipe
    if not recipe.teacher.taught:
        raise ValueError(
            f"teacher.cache: the teacher {recipe.teacher.name!r} has no weights that the cache could be checked "
            "against; give those that it was written from, e.g. --teacher.checkpoint FILE"
        )
    views = recipe.data.views or read_about(recipe.teacher.cache).views
    return replace(recipe, data=replace(recipe.data, views=views))
