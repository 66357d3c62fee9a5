"""Parses XML that anybody may have written."""

from __future__ import annotations

from lxml import etree

XMLError = etree.XMLSyntaxError


def xml_root(data: bytes) -> etree._Element:
    """The root element, without entities, document types, network access or huge trees.

    Raises XMLError where the XML is damaged.
    """
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    return etree.fromstring(data, parser)
