"""Makes README.md and models/ pages of the site, and their links point to where things are there.

A link to what is no part of the site, such as a source file or a folder, becomes plain text. The
examples in docstrings become blocks of code, and the comments of fields their descriptions.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files, InclusionLevel

_ROOT = Path(__file__).parent
_README = "get-started.md"  # README.md in the site
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
_COMMENT = re.compile(r"  # (?!noqa|type:)(.*)$")


class OurDocstrings(griffe.Extension):  # type: ignore[misc]
    """Fences doctests, which Markdown takes for quotations; comments of fields become a table."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if not obj.docstring:
            return
        text = _DOCTEST.sub(r"\n```pycon\n\g<0>\n```\n", obj.docstring.value)
        obj.docstring.value = text + (_attributes(obj) if obj.is_class else "")


def _attributes(cls: Any) -> str:
    """A section of a docstring, or nothing where no field has a comment."""
    lines = ""
    for name, attribute in cls.attributes.items():
        comment = _COMMENT.search(attribute.source) if not name.startswith("_") else None
        lines += f"    {name}: {comment[1]}\n" if comment else ""
    return f"\n\nAttributes:\n{lines}" if lines else ""


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside of docs/."""
    files.append(File.generated(config, _README, abs_src_path=str(_ROOT / "README.md")))
    for path in sorted((_ROOT / "models").glob("*.md")):
        level = InclusionLevel.INCLUDED if path.name == "README.md" else InclusionLevel.NOT_IN_NAV
        name = f"models/{path.name}"
        files.append(File.generated(config, name, abs_src_path=str(path), inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrites the links of a page, but not inside code."""
    here = page.file.src_uri

    def link(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        target, _, anchor = target.partition("#")
        if not target or ":" in target:
            return found[0]
        there = _in_site(posixpath.normpath(posixpath.join(_folder_of(here), target)))
        if files.get_file_from_path(there) is None:
            return found[0] if mark else text
        relative = posixpath.relpath(there, posixpath.dirname(here) or ".")
        return f"{mark}[{text}]({relative}{'#' if anchor else ''}{anchor})"

    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def _folder_of(page: str) -> str:
    """The folder in the repository of a page of the site."""
    if page == _README:
        return ""
    return posixpath.dirname(page if page.startswith("models/") else f"docs/{page}")


def _in_site(path: str) -> str:
    """The place in the site of a file of the repository."""
    return _README if path == "README.md" else path.removeprefix("docs/")


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Drops what mkdocs-click shows where an option of click has no default."""
    return html.replace("<code>Sentinel.UNSET</code>", "")
