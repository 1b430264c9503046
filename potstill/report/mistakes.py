"""What a student gets wrong that its teacher gets right, as pictures."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image
from torch import Tensor

from potstill.data import Split

SHOWN = 24
"""Images in the report where the teacher is right and the student wrong, per method."""


def mistakes(valid: Split, student: Tensor, teacher: Tensor) -> list[dict[str, Any]]:
    """The first validation images where the teacher is right and the student wrong, as PNG."""
    wrong = (teacher == valid.labels) & (student != valid.labels)
    items = []
    for index in wrong.nonzero().flatten()[:SHOWN].tolist():
        pixels = valid.picture(index)
        image = Image.fromarray((pixels[0] if valid.channels == 1 else pixels.permute(1, 2, 0)).numpy())
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        names = {"label": valid.labels[index], "teacher": teacher[index], "student": student[index]}
        named = {role: valid.classes[int(number)] for role, number in names.items()}
        items.append({"png": base64.b64encode(buffer.getvalue()).decode(), **named, "index": index})
    return items
