"""Robustness: attacks, natural corruptions, calibration and likeness to the teacher, beyond accuracy.

These five rows extend the study of Sarfraz, Arani and Zonooz, *Knowledge Distillation Beyond Model Compression* (ICPR
2020, arXiv:2007.01922). Its abstract speaks of generalisation, label noise and class imbalance; protocols and choices
here are ours. (The fifth, transfer, is `potstill transfer`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import fmean
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from potstill.data import batches
from potstill.data.loaders import shown
from potstill.evaluation.attacks import check, fgsm, pgd
from potstill.evaluation.calibration import brier, split, temperature
from potstill.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from potstill.evaluation.fidelity import BINS, calibration, fidelity
from potstill.functional import at_least_float32
from potstill.hashing import hash_index
from potstill.sources import Network
from potstill.suites.suite import Seen, Suite
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, View

ROWS = 256
"""Most images that go through a network at once."""
PIXELS = 2**22
"""Most values of images that do."""
KEPT = 2**30
"""Bytes of corrupted images that are kept for the next network; more are made again."""
KINDS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic", "pixelate", "jpeg"),
}
EXTENSION = (
    "Our extension of the study of Sarfraz et al. 2020 (arXiv:2007.01922), whose abstract does not speak of these "
    "measurements; protocol and choices are ours."
)


@dataclass(frozen=True)
class RobustnessSuite(Suite):
    """How right, how sure and how like its teacher a network is, on attacked, corrupted and plain images."""

    rows: int = 1000
    """Attack and corrupt so many validation images, evenly spaced; all where there are fewer."""
    epsilons: tuple[str, ...] = ("2/255", "4/255", "8/255")
    """How far an attack may move a pixel of [0, 1]: numbers or fractions."""
    steps: int = 20
    """Steps of PGD."""
    step_size: float = 2.5
    """Length of all of PGD's steps together, in epsilons: each is step_size * epsilon / steps."""
    fit_fraction: float = 0.25
    """Part of the validation images that temperatures are fitted to; the rest measures calibration."""
    seed: int = 0
    """Of random starts, corruptions and that part."""
    title: ClassVar[str] = "robustness, calibration and likeness to the teacher"
    classifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")
        if self.steps < 1 or not self.step_size > 0:
            raise ValueError(f"steps and step_size must be positive, got {self.steps} and {self.step_size}")
        if not 0 < self.fit_fraction < 1:
            raise ValueError(f"fit_fraction must lie between 0 and 1, got {self.fit_fraction}")
        if not self.epsilons or len(set(self.radii)) < len(self.epsilons):
            raise ValueError(f"epsilons must be at least one, each once, got {', '.join(self.epsilons) or 'none'}")
        for epsilon in self.radii:
            check(epsilon)

    @property
    def radii(self) -> tuple[float, ...]:
        """The epsilons as numbers. Raises ValueError for what is none."""
        return tuple(_number(text) for text in self.epsilons)

    def columns(self) -> Mapping[str, str]:
        attacks = {f"fgsm_{e}": f"FGSM {e}" for e in self.epsilons} | {
            f"pgd_{e}": f"PGD-{self.steps} {e}" for e in self.epsilons
        }
        return {
            "top1": "top-1",
            "clean": "clean",
            **attacks,
            "corrupted": "corrupted",
            **{kind: kind for kind in KINDS},
            "ece": "ECE",
            "nll": "NLL",
            "brier": "Brier",
            "temperature": "T",
            "ece_scaled": "ECE at T",
            "nll_scaled": "NLL at T",
            "brier_scaled": "Brier at T",
            "agreement": "agrees %",
            "kl": "KL(teacher ‖ student)",
            "cka": "CKA",
        }

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        attacks = tuple(f"{attack}_{epsilon}" for attack in ("fgsm", "pgd") for epsilon in self.epsilons)
        return {
            "top-1 accuracy in percent under attack": ("clean", *attacks),
            "top-1 accuracy in percent on corrupted images": ("clean", "corrupted", *KINDS),
            "calibration, as it is and at a fitted temperature T": (
                *("top1", "ece", "nll", "brier", "temperature", "ece_scaled", "nll_scaled", "brier_scaled"),
            ),
            "likeness to the teacher": ("agreement", "kl", "cka"),
        }

    def better(self) -> Mapping[str, Literal["higher", "lower"]]:
        last = max(zip(self.radii, self.epsilons, strict=True))[1]
        first = ("clean", f"pgd_{last}", "corrupted", "ece", "ece_scaled", "brier")
        others = (key for key in self.columns() if key.startswith(("fgsm_", "pgd_")) or key in KINDS)
        every = dict.fromkeys((*first, *others, "nll", "nll_scaled", "brier_scaled"))
        return {key: "lower" if key.startswith(("ece", "nll", "brier")) else "higher" for key in every}

    def notes(self) -> tuple[str, ...]:
        return (
            EXTENSION,
            "Attacks: l-infinity, in pixels of [0, 1], the network's preprocessing inside the gradient. PGD: "
            f"{self.steps} steps of {self.step_size / self.steps:g} epsilon from a random start, the last step counts. "
            "FGSM: one step from the image.",
            f"clean, attacked and corrupted: at most {self.rows:,} validation images, evenly spaced.",
            "corrupted: mean over 15 corruptions at 5 severities with the constants of CIFAR-10-C's generator, made "
            "for 32 x 32 pixels; frost is a generated texture, no photograph. Random numbers are ours.",
            f"ECE in percent over {BINS} bins, NLL in nats, Brier score from 0 to 2. The temperature is fitted to a "
            f"random {self.fit_fraction:.0%} of the validation images, and calibration measured on the others.",
            "Likeness to the teacher on all validation images. Transfer to other data: potstill transfer.",
        )

    def smoke(self) -> Self:
        return replace(self, rows=min(self.rows, 32))

    def ticks(self, seen: Seen) -> int:
        rows, batch = min(self.rows, len(seen.valid)), _at_once(seen)
        attacks = len(self.epsilons) * (1 + self.steps)
        return -(-len(seen.valid) // batch) + -(-rows // batch) * (1 + attacks + len(CORRUPTIONS) * len(SEVERITIES))

    def measure(self, network: Network, seen: Seen) -> Mapping[str, Any]:
        """Besides the columns: `corruptions`, top-1 of each at each severity."""
        found: dict[str, Any] = dict.fromkeys(self.columns())
        logits, embedding = _answers(network, seen)
        labels = seen.valid.labels
        if not bool(logits.isfinite().all()):
            seen.talk.warn("a network whose answers are not finite is not measured")
            return found
        found["top1"] = _percent(logits.argmax(1) == labels)
        fitted, measured = self._parts(seen)
        found |= _calibration(logits, labels, fitted, measured)
        if seen.teacher is not None and network is not seen.teacher:
            found |= _likeness(logits, embedding, labels, seen)
        return found | self._under_attack(network, seen) | self._corrupted(network, seen)

    def _parts(self, seen: Seen) -> tuple[Tensor, Tensor]:
        every = torch.arange(len(seen.valid), device=seen.device)
        return split(len(every), self.fit_fraction, hash_index(every, self.seed, "temperature").argsort())

    def _batches(self, seen: Seen) -> Iterator[View]:
        """The images to attack and corrupt, as they are."""
        if "pictures" not in seen.memory:
            count, many = len(seen.valid), min(self.rows, len(seen.valid))
            index = torch.linspace(0, count - 1, many, dtype=torch.float64, device=seen.device).round().long()
            seen.memory["pictures"] = [
                View(shown(seen.valid, part, "none", 0, None).to(seen.device), part, seen.valid.labels[part])
                for part in index.split(_at_once(seen))
            ]
        yield from seen.memory["pictures"]

    def _under_attack(self, network: Network, seen: Seen) -> dict[str, float]:
        right: dict[str, list[Tensor]] = {}
        for view in self._batches(seen):
            for key, pixels in self._attacks(network, view):
                right.setdefault(key, []).append(_right(network, view, pixels))
                seen.tick()
        return {key: _percent(torch.cat(parts)) for key, parts in right.items()}

    def _attacks(self, network: Network, view: View) -> Iterator[tuple[str, Tensor]]:
        """The images as they are, and attacked in each way."""
        # The same module, still in evaluation mode; only so does a gradient pass to the pixels.
        open_network = Network(
            network.module,
            trained=True,
            preprocess=network.preprocess,
            names=network.names,
            precision=network.precision,
        )

        def answer(pixels: Tensor) -> Tensor:
            return _logits(open_network, view, pixels)

        assert view.label is not None, "evaluation data has labels"
        pixels = view.input.float() / 255
        yield "clean", pixels
        for name, epsilon in zip(self.epsilons, self.radii, strict=True):
            yield f"fgsm_{name}", fgsm(answer, pixels, view.label, epsilon)
            size = self.step_size * epsilon / self.steps
            walk = {"index": view.index, "steps": self.steps, "step_size": size, "seed": self.seed}
            yield f"pgd_{name}", pgd(answer, pixels, view.label, epsilon, **walk)

    def _corrupted(self, network: Network, seen: Seen) -> dict[str, Any]:
        right: dict[str, list[float]] = {}
        for name in CORRUPTIONS:
            for severity in SEVERITIES:
                parts = []
                for view, pixels in self._corruptions(name, severity, seen):
                    parts.append(_right(network, view, pixels))
                    seen.tick()
                right.setdefault(name, []).append(_percent(torch.cat(parts)))
        mean = {name: fmean(values) for name, values in right.items()}
        kinds = {kind: fmean(mean[name] for name in names) for kind, names in KINDS.items()}
        return {"corrupted": fmean(mean.values()), **kinds, "corruptions": right}

    def _corruptions(self, name: str, severity: int, seen: Seen) -> Iterator[tuple[View, Tensor]]:
        """Every batch of images, corrupted; kept for the next network while there is room."""
        for place, view in enumerate(self._batches(seen)):
            key = (name, severity, place)
            pixels = seen.memory.get(key)
            if pixels is None:
                pixels = corrupt(view.input, view.index, name, severity, self.seed)
                seen.memory["kept"] = seen.memory.get("kept", 0) + pixels.numel()
                if seen.memory["kept"] <= KEPT:
                    seen.memory[key] = pixels
            yield view, pixels


def _answers(network: Network, seen: Seen) -> tuple[Tensor, Tensor | None]:
    """Logits and, where it has one, embedding of all validation images."""
    taps = ("embedding",) if "embedding" in network.names else ()
    logits, embedding = [], []
    for batch in batches(seen.valid, _at_once(seen), seen.device):
        outputs = network(Classify(), batch, MAIN, taps)
        logits.append(at_least_float32(outputs.dense()))
        embedding += [at_least_float32(outputs.taps[tap]).flatten(1) for tap in taps]
        seen.tick()
    return torch.cat(logits), torch.cat(embedding) if taps else None


def _logits(network: Network, view: View, pixels: Tensor) -> Tensor:
    batch = Batch({MAIN: replace(view, input=pixels)})
    return at_least_float32(network(Classify(), batch, MAIN, ()).dense())


def _right(network: Network, view: View, pixels: Tensor) -> Tensor:
    assert view.label is not None, "evaluation data has labels"
    return _logits(network, view, pixels).argmax(1) == view.label


def _calibration(logits: Tensor, labels: Tensor, fitted: Tensor, measured: Tensor) -> dict[str, float]:
    hot = temperature(logits[fitted], labels[fitted])
    found = {"temperature": hot}
    for mark, seen in (("", logits[measured]), ("_scaled", logits[measured].double() / hot)):
        bars = calibration(seen, labels[measured])
        found |= {f"ece{mark}": bars.ece, f"nll{mark}": bars.nll, f"brier{mark}": brier(seen, labels[measured])}
    return found


def _likeness(logits: Tensor, embedding: Tensor | None, labels: Tensor, seen: Seen) -> dict[str, float | None]:
    if "teacher" not in seen.memory:
        assert seen.teacher is not None, "asked only where there is one"
        seen.memory["teacher"] = _answers(seen.teacher, replace(seen, tick=lambda: None))
    taught, theirs = seen.memory["teacher"]
    if logits.shape != taught.shape or not bool(taught.isfinite().all()):
        return {}
    found = fidelity(logits, taught, labels, embedding, theirs)
    return {"agreement": found.agreement, "kl": found.kl, "cka": found.cka}


def _at_once(seen: Seen) -> int:
    height, width = seen.valid.size
    return max(1, min(ROWS, PIXELS // (seen.valid.channels * height * width)))


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()


def _number(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"epsilon {text!r} is no number; expected 8/255 or 0.03, say") from None
