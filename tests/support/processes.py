"""The command in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

_DEFAULT = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL);"  # while this is loaded
_EAGER = "from slidesr.output.checkpoint import CheckpointTimer as p; p._MIN_S = p._FACTOR = 0;"
_SMALL = "import slidesr.pipeline.prepare as q; q._LARGEST_TILE_PX = 256;"
# The command, with a checkpoint after every block, and blocks of 256 source pixels.
MAIN = [
    sys.executable,
    "-c",
    f"{_DEFAULT} {_EAGER} {_SMALL} from slidesr.__main__ import main; main()",
]


def wait_for(path: Path, process: subprocess.Popen[bytes], *, newer_than: float) -> None:
    """Returns once the process has written the file."""
    until = time.monotonic() + 60
    while not (path.exists() and path.stat().st_mtime > newer_than):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
