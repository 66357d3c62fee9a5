"""Annotations as ASAP writes them."""

from __future__ import annotations


def asap(*annotations: tuple[str, str, list[list[int]]]) -> str:
    """Each annotation is its type, its group and its corners."""

    def one(kind: str, group: str, ring: list[list[int]]) -> str:
        corners = [f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(ring)]
        body = "".join(reversed(corners))  # the order is told by Order, not by the file
        return (
            f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}">'
            f"<Coordinates>{body}</Coordinates></Annotation>"
        )

    body = "".join(one(*a) for a in annotations)
    return f"<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>"
