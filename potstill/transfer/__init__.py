"""Transfer: linear probes of a run's networks on other data."""

from potstill.transfer.probe import linear_probe
from potstill.transfer.protocol import Probed, Protocol
from potstill.transfer.run import read_transfer, transfer

__all__ = ["Probed", "Protocol", "linear_probe", "read_transfer", "transfer"]
