"""How much memory a call needs."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def live_mib(run: Callable[[], object]) -> float:
    """Largest sum of live allocations made during one call, in MiB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak / 2**20
