"""Parses XML that anybody may have written."""

from __future__ import annotations

from lxml import etree

XMLError = etree.XMLSyntaxError


def xml_root(xml: bytes | str) -> etree._Element:
    """The root element, without entities, document types, network access or huge trees.

    Text is decoded already, so the encoding that it declares is ignored. Raises XMLError where the
    XML is damaged.
    """
    data = xml.encode() if isinstance(xml, str) else xml
    parser = etree.XMLParser(
        encoding="utf-8" if isinstance(xml, str) else None,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
    )
    return etree.fromstring(data, parser)
