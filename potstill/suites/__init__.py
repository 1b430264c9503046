"""What `potstill evaluate` can measure of a run's networks, one file each, under the names that `--suite` takes."""

from potstill.suites.retrieval import RetrievalSuite
from potstill.suites.robustness import RobustnessSuite
from potstill.suites.suite import Seen, Suite

SUITES: dict[str, type[Suite]] = {
    "retrieval": RetrievalSuite,
    "robustness": RobustnessSuite,
}

__all__ = ["SUITES", "RetrievalSuite", "RobustnessSuite", "Seen", "Suite"]
