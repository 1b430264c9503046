"""Peak memory of a part of a process."""

from __future__ import annotations

from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """The most memory in use since it was made: what PyTorch allocated on a GPU; on a CPU the whole process's resident
    memory, libraries and data included, where the system tells it (Linux).
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.known = device.type == "cuda" or (STATUS.exists() and _reset())
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def mib(self) -> float | None:
        """In MiB; None where it cannot be known."""
        if not self.known:
            return None
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1)
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 2**10, 1)


def _reset() -> bool:
    try:
        RESET.write_text("5")  # the kernel's code for: the peak is what is resident now
    except OSError:
        return False
    return True
