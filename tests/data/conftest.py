"""Data as users have it: a private cache, the shared benchmark data, a folder of photographs."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("POTSTILL_CACHE", str(folder))
    return folder


@pytest.fixture
def shared():
    """Path of a shared data set, or a skip that says why."""

    def find(name: str) -> Path:
        base = Path(os.environ.get("POTSTILL_SHARED") or Path(__file__).parents[3] / "shared")
        folder = base / "data" / name
        if not folder.is_dir():
            pytest.skip(f"no shared data: {name} (set POTSTILL_SHARED to the folder that holds data/)")
        return folder

    return find


@pytest.fixture
def picture():
    """Make an image file of one main colour with some texture, so that it is recognisable after JPEG."""

    def make(path: Path, colour=(200, 40, 40), size=(40, 30), mode="RGB", seed=0) -> Path:
        rng = np.random.default_rng(seed)
        pixels = np.array(colour) + rng.integers(-10, 10, (size[1], size[0], 1))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert(mode).save(path)
        return path

    return make


@pytest.fixture
def photos(tmp_path, picture):
    """12 photographs of two classes, of different sizes, modes and formats."""
    root = tmp_path / "photos"
    for number in range(6):
        picture(root / "apple" / f"{number}.jpg", (200, 40, 40), (40 + number, 30), seed=number)
    picture(root / "sky" / "0.png", (40, 60, 200), (80, 100), "RGBA")
    picture(root / "sky" / "1.png", (40, 60, 200), (80, 100), "P")
    picture(root / "sky" / "2.jpg", (128, 128, 128), (33, 64), "L")
    picture(root / "sky" / "3.jpeg", (40, 60, 200), (64, 64), "CMYK")
    picture(root / "sky" / "deeper" / "4.webp", (40, 60, 200), (70, 70))
    picture(root / "sky" / "5.PNG", (40, 60, 200), (70, 90))
    (root / ".DS_Store").write_bytes(b"x")
    return root


@pytest.fixture
def truncate():
    def cut(path: Path) -> Path:
        path.write_bytes(path.read_bytes()[:-60])
        return path

    return cut
