"""Errors that teach: what is close to what was written."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A sentence that names near matches, or all known names when none is near.

    >>> did_you_mean("icdd", ["ICD", "kd"])
    "did you mean 'ICD'?"
    >>> did_you_mean("zzz", ["icd", "kd"])
    'known: icd, kd'
    """
    names = sorted(known)
    lower = {name.lower(): name for name in names}
    near = [lower[match] for match in get_close_matches(wrong.lower(), lower, n=3, cutoff=0.6)]
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    shown = names if len(names) <= 12 else [*names[:12], f"… ({len(names)} in all)"]
    return "known: " + ", ".join(shown)
