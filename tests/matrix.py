"""Measures the table of docs/formats.md: writes the rows of the readers that are here.

python tests/matrix.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from support.matrix import documented_rows, measured_row, write_rows, write_slides
from support.readers import PROGRAMS, AbsentError


def main() -> None:
    rows = documented_rows()
    with tempfile.TemporaryDirectory() as folder:
        slides = write_slides(Path(folder))
        for program in PROGRAMS:
            try:
                rows[program.name] = measured_row(program, slides)
            except AbsentError as error:
                sys.stderr.write(f"{program.name}: not here: {error}\n")
    write_rows(rows)


if __name__ == "__main__":
    main()
