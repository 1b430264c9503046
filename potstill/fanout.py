"""Where the jobs of a grid run: in this process, in processes of this machine, or on a Ray cluster.

All of them call `work(*arguments, device)` and give back futures.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Protocol

import torch

Work = Callable[..., Any]


class Workers(Protocol):
    """`submit` starts a call, of which at most `size` run at once. `lost(error)`: the worker died; the call, started
    again, may well succeed."""

    size: int

    def submit(self, work: Work, *arguments: Any) -> Future: ...

    def lost(self, error: BaseException) -> bool: ...

    def close(self) -> None: ...


class Here:
    """One call after the other, in this process."""

    size = 1

    def __init__(self, device: str):
        self.device = device

    def submit(self, work: Work, *arguments: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(work(*arguments, self.device))
        except Exception as error:
            future.set_exception(error)
        return future

    def lost(self, error: BaseException) -> bool:
        return False

    def close(self) -> None:
        pass


class Processes:
    """One process for each device given; a device may be given several times.

    Every process has an executor of its own, so that one that is killed takes nothing but its own call with it.
    """

    def __init__(self, devices: Sequence[str]):
        self.size = len(devices)
        self.threads = max(1, torch.get_num_threads() // len(devices))
        self.idle: list[tuple[str, ProcessPoolExecutor | None]] = [(device, None) for device in devices]

    def submit(self, work: Work, *arguments: Any) -> Future:
        device, executor = self.idle.pop(0)
        if executor is None:
            context = multiprocessing.get_context("spawn")  # a forked child of a process with threads may hang
            executor = ProcessPoolExecutor(1, context, initializer=follow_parent, initargs=(self.threads,))
        future = executor.submit(work, *arguments, device)

        def back(future: Future) -> None:
            self.idle.append((device, None if self.lost(future.exception()) else executor))

        future.add_done_callback(back)
        return future

    def lost(self, error: BaseException | None) -> bool:
        return isinstance(error, BrokenProcessPool)

    def close(self) -> None:
        for _, executor in self.idle:
            if executor is not None:
                executor.shutdown()


def follow_parent(threads: int) -> None:
    """A worker leaves Ctrl-C to the training loop, which saves first, and does not outlive its parent."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class Cluster:
    """A Ray cluster: "local" starts one on this machine, anything else is the address of one that runs.

    Every node must see the data and the output folder under the same paths. A task whose worker dies is started again
    and goes on from its checkpoint.
    """

    def __init__(self, address: str, *, size: int | None = None):
        try:
            import ray
            import ray.exceptions
        except ImportError as error:
            raise ValueError("--ray needs Ray: pip install 'potstill[ray]'") from error
        self.ray, self.started = ray, not ray.is_initialized()
        if self.started:
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
            if address == "local":
                ray.init(num_cpus=size, include_dashboard=False, **quiet)
            else:
                ray.init(address=address, **quiet)
        found = ray.cluster_resources()
        self.gpus = int(found.get("GPU", 0))
        self.size = size or self.gpus or max(1, int(found.get("CPU", 1)))

    def submit(self, work: Work, *arguments: Any) -> Future:
        device = "cuda" if self.gpus else "cpu"
        task = self.ray.remote(max_retries=2, num_cpus=1, num_gpus=1 if self.gpus else 0)(work)
        return task.remote(*arguments, device).future()

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, self.ray.exceptions.WorkerCrashedError)

    def close(self) -> None:
        if self.started:
            self.ray.shutdown()
