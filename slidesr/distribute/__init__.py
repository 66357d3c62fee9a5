"""The same blocks by other processes: the only door to dask.distributed."""

from slidesr.distribute.cluster import Cluster, connected, of_devices
from slidesr.distribute.worker import make_block

__all__ = ["Cluster", "connected", "make_block", "of_devices"]
