"""What slidesr wrote into its own files of how they were made."""

from __future__ import annotations

import re

from lxml import etree

_NAMESPACE = "slidesr.provenance"
_PLAIN = re.compile(r"slidesr \d+x\d+(\||$)")


def provenance_from_description(text: str) -> dict[str, str]:
    """The key-value pairs of an image description that slidesr wrote; none for those of others.

    >>> provenance_from_description("slidesr 80x60|MPP = 0.25 x 0.25|scale = 4")
    {'MPP': '0.25 x 0.25', 'scale': '4'}
    """
    if _NAMESPACE in text:
        return _from_ome(text)
    if not _PLAIN.match(text):
        return {}
    pairs = (pair.partition(" = ") for pair in text.split("|")[1:])
    return {key: value for key, equals, value in pairs if equals}


def _from_ome(xml: str) -> dict[str, str]:
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        root = etree.fromstring(xml.encode(), parser)
    except etree.XMLSyntaxError:
        return {}
    notes = (note for note in root.iter("{*}MapAnnotation") if note.get("Namespace") == _NAMESPACE)
    return {m.get("K", ""): m.text or "" for note in notes for m in note.iter("{*}M")}
