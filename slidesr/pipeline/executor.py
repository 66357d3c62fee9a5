"""Who makes the blocks: this process, the processes of several devices, or a dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slidesr.cli.show import console, line
from slidesr.errors import RefusedError

if TYPE_CHECKING:
    from slidesr.model.model import Model
    from slidesr.pipeline.dask_cluster.cluster import Cluster
    from slidesr.pipeline.options import Options
    from slidesr.pipeline.run import Executor


@dataclass(frozen=True)
class Workers:
    """What a job is run with; without a cluster this process does it all."""

    options: Options
    cluster: Cluster | None = None

    @property
    def make(self) -> Executor | None:
        return self.cluster.make if self.cluster else None

    def open_model(self) -> Model:
        """The model as the workers have it; on a cluster nothing of it runs here."""
        from slidesr.pipeline.job import open_model

        engine = self.cluster.engine(self.options) if self.cluster else None
        return open_model(self.options, engine)


@contextmanager
def workers(dask: str | None, options: Options) -> Iterator[Workers]:
    """The workers that `--dask` and `--device` name, for as long as they are needed.

    Raises RefusedError where they cannot be had.
    """
    from slidesr.model.device import devices

    names = [] if dask else devices(options.device)
    if dask and "," in options.device:
        raise RefusedError("--device names several devices of this machine: not with --dask.")
    if not dask and len(names) < 2:
        yield Workers(options)
        return
    try:
        from slidesr.pipeline.dask_cluster.cluster import connected, of_devices
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        what = "--dask" if dask else f"{len(names)} devices at once"
        raise RefusedError(f"{what} needs dask: pip install 'slidesr[cluster]'") from error
    if names:
        options = replace(options, device=names[0].partition(":")[0])
    threads = 1 if options.device == "cpu" else 1 + options.num_workers  # they read and encode
    some = connected(dask) if dask else of_devices(names, nthreads=threads)
    with ExitStack() as stack:
        with console.status("looking for workers"):
            cluster = stack.enter_context(some)
        if cluster.dashboard:
            line(f"what the workers do: {cluster.dashboard}", "dim")
        yield Workers(options, cluster)
