"""Annotations as ASAP and QuPath write them."""

from __future__ import annotations

from typing import Any

Ring = list[list[int]]


def asap(*annotations: tuple[str, str, Ring], groups: dict[str, str] | None = None) -> str:
    """Each annotation is its type, its group and its corners; `groups` are those above groups."""

    def one(kind: str, group: str, ring: Ring) -> str:
        corners = [f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(ring)]
        body = "".join(reversed(corners))  # the order is told by Order, not by the file
        return (
            f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}">'
            f"<Coordinates>{body}</Coordinates></Annotation>"
        )

    body = "".join(one(*a) for a in annotations)
    above = "".join(
        f'<Group Name="{name}" PartOfGroup="{parent}" Color="#ff0000"><Attributes/></Group>'
        for name, parent in (groups or {}).items()
    )
    return (
        f"<ASAP_Annotations><Annotations>{body}</Annotations>"
        f"<AnnotationGroups>{above}</AnnotationGroups></ASAP_Annotations>"
    )


def feature(geometry: Any, classification: Any = None, **properties: Any) -> dict[str, Any]:
    """An object of QuPath."""
    said = {"objectType": "annotation", **properties}
    if classification is not None:
        said["classification"] = classification
    return {"type": "Feature", "geometry": geometry, "properties": said}


def square(x: int, y: int, width: int, height: int | None = None) -> dict[str, Any]:
    right, bottom = x + width, y + (height or width)
    ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
    return {"type": "Polygon", "coordinates": [ring]}
