"""The Python of the documents runs: every block of a document, in order, in an empty folder.

A block with `<!-- not run -->` on the line before it is for readers alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from slidesr.pipeline.sample import write_sample_slide

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "docs/api.md"]
_BLOCK = re.compile(r"(<!-- not run -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_in_documents_runs(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sample_slide(tmp_path / "slide.tif")  # what snippets read
    run_blocks((ROOT / document).read_text(), document)


def test_a_block_that_fails_fails_the_document() -> None:
    text = "One\n```python\nx = 1\n```\n\nTwo\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failure:
        run_blocks(text, "a.md")
    at = failure.traceback[-1]
    assert (at.path, at.lineno) == ("a.md", 7)  # counted from 0: line 8 of the document


def test_a_block_that_is_not_to_run_does_not() -> None:
    assert run_blocks("<!-- not run -->\n```python\n1 / 0\n```\n", "a.md") == 0
    assert run_blocks("```sh\nfalse\n```\n```python\nx = 1\n```\n", "a.md") == 1


def run_blocks(text: str, name: str) -> int:
    """Runs the blocks with common names; returns how many. Errors tell the document's lines."""
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = [found for found in _BLOCK.finditer(text) if not found[1]]
    for block in blocks:
        line = text.count("\n", 0, block.start(2))
        exec(compile("\n" * line + block[2], name, "exec"), names)  # noqa: S102
    return len(blocks)
