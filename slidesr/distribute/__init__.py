"""The same blocks by other processes: the only door to dask.distributed."""

from slidesr.distribute.cluster import Cluster, connected, of_devices

__all__ = ["Cluster", "connected", "of_devices"]
