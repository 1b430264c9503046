"""What every test gets: one thread, the folder of shared data, and tensor shapes checked at run time."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts; subprocesses inherit it

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
# Here and not through pytest's plugin, whose option does not reach the workers of pytest -n.
SHAPED = ("functional", "hashing", "memory", "models", "objectives")
install_import_hook([f"potstill.{name}" for name in SHAPED], "shapes.only_shapes")


@pytest.fixture(scope="session")
def shared():
    """`shared("goldens")` is that folder beside the repository; where it is absent the test is skipped with a reason.

    On CI, which has it, it must not be absent: there, or with POTSTILL_REQUIRE_SHARED=1, the test fails.
    """

    def find(*parts: str) -> Path:
        base = Path(os.environ.get("POTSTILL_SHARED") or Path(__file__).resolve().parents[2] / "shared")
        path = base.joinpath(*parts)
        if not path.exists():
            reason = f"{path} does not exist: set POTSTILL_SHARED to the shared folder"
            required = os.environ.get("CI") == "true" or os.environ.get("POTSTILL_REQUIRE_SHARED") == "1"
            (pytest.fail if required else pytest.skip)(reason)
        return path

    return find
