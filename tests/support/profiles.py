"""ICC profiles of any colour space and class, small and valid enough to be opened."""

from __future__ import annotations

import struct


def icc_profile(space: bytes = b"GRAY", kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    """A profile (version 2.1) of one tone curve, with its colour space and device class."""
    white = struct.pack(">iii", *(int(each * 65536) for each in (0.9642, 1, 0.8249)))
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + white,
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, 563) + b"\0\0",
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        at = 132 + 12 * len(tags) + len(body)
        table, body = table + name + struct.pack(">II", at, len(padded)), body + padded
    data = table + body
    header = struct.pack(">I4xI4s4s4s", 128 + len(data), 0x02100000, kind, space, pcs)
    date = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    light = struct.pack(">iii", 63190, 65536, 54061)
    return (header + date + b"acsp" + bytes(28) + light).ljust(128, b"\0") + data
