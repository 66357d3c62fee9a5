"""Where blocks are upscaled: in this process, in one process for each device, or on a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slidesr.errors import RefusedError
from slidesr.model.device import devices
from slidesr.model.model import Model
from slidesr.pipeline.job import Job
from slidesr.pipeline.options import Options
from slidesr.pipeline.prepare import open_model
from slidesr.pipeline.profile import Stopwatch
from slidesr.pipeline.run import Progress, Summary, upscale

if TYPE_CHECKING:
    from slidesr.pipeline.dask_cluster.cluster import Cluster

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runner:
    """Runs jobs with one set of options; without a cluster, in this process."""

    options: Options
    cluster: Cluster | None = None

    def open_model(self) -> Model:
        """Opens the model that the workers will run; on a cluster its weights stay unused here."""
        engine = self.cluster.engine(self.options) if self.cluster else None
        return open_model(self.options, engine)

    def run(
        self,
        job: Job,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        stopwatch: Stopwatch | None = None,
    ) -> Summary:
        """Runs one job. With a cluster, several threads may run one each."""
        executor = self.cluster.make if self.cluster else None
        return upscale(job, on_progress, stopwatch, executor)


@contextmanager
def open_runner(options: Options, dask: str | None = None) -> Iterator[Runner]:
    """Starts or finds the workers that `dask` and `options.device` name, and stops its own again.

    `dask` is a scheduler's address, or local:N for N processes on this machine. Several devices get
    a process each. Raises RefusedError where they are not to be had.
    """
    names = [] if dask else devices(options.device)
    if dask and "," in options.device:
        raise RefusedError("--device names several devices of this machine: not with --dask.")
    if not dask and len(names) < 2:
        yield Runner(options)
        return
    from slidesr.pipeline.dask_cluster.cluster import connected, of_devices  # dask takes 0.5 s

    if names:
        options = replace(options, device=names[0].partition(":")[0])
    threads = 1 if options.device == "cpu" else 1 + options.num_workers  # for reading, encoding
    with connected(dask) if dask else of_devices(names, nthreads=threads) as cluster:
        if cluster.dashboard:
            _log.info("dashboard of the workers: %s", cluster.dashboard)
        yield Runner(options, cluster)
