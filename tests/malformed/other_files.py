"""Broken regions, masks and weights."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from support.models import tiny_generator

from malformed.slide_files import images
from malformed.tiff_files import Files
from slidesr.nets.generator import Generator, GeneratorSpec

MARKER = "executed"  # the file that hostile weights would make, beside themselves


def regions() -> Files:
    square = [[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]
    polygon: dict[str, Any] = {"type": "Polygon", "coordinates": [square]}

    def of(ring: Any) -> dict[str, Any]:
        return {"type": "Polygon", "coordinates": [ring]}

    nodes: dict[str, Any] = {
        "nothing": {}, "null": None, "number": 5, "text": "Polygon", "no-type": [{"a": 1}],
        "type-is-a-list": {"type": []}, "unknown-type": {"type": "[bold]Circle\x1b[31m"},
        "points-only": [{"type": "Point", "coordinates": [1, 2]}] * 1000,
        "no-coordinates": {"type": "Polygon"}, "empty-ring": of([]), "two-corners": of(square[:2]),
        "huge": of([[x * 1e308, y * 1e308] for x, y in square]),
        "tiny": of([[x * 1e-300, y * 1e-300] for x, y in square]),
        "outside": of([[x + 1e6, y] for x, y in square]), "text-corners": of([["a", "b"]] * 5),
        "deep-corners": of([[[[1]]]] * 5), "one-number": of([[1]] * 5),
        "feature-of-nothing": {"type": "Feature", "geometry": None},
        "no-features": {"type": "FeatureCollection", "features": [{"type": "FeatureCollection"}]},
        "star": of(np.random.default_rng(0).uniform(0, 300, (3000, 2)).tolist()),
    }  # fmt: skip
    for name, node in nodes.items():
        yield f"{name}.geojson", json.dumps(node).encode()
    text = json.dumps(polygon)
    yield "nan.geojson", text.replace("90", "NaN").encode()
    yield "infinite.geojson", text.replace("90", "1e999").encode()
    yield "long-number.geojson", text.replace("90", "9" * 20_000).encode()
    yield "nested.geojson", b"[" * 100_000
    yield "nested-features.geojson", b'{"type":"GeometryCollection","geometries":[' * 20_000
    yield "cut.geojson", text[:40].encode()
    yield "bad-utf8.geojson", b'{"type":"\xff\xfe"}'
    yield "noise.geojson", np.random.default_rng(5).bytes(3000)
    yield "empty.geojson", b""
    laughs = "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    corner = '<Coordinate Order="{}" X="{}" Y="{}"/>'
    annotation = '<Annotations><Annotation Type="Polygon">{}</Annotation></Annotations>'
    asap = f"<ASAP_Annotations>{annotation}</ASAP_Annotations>"
    body = (
        "<Coordinates>"
        + "".join(corner.format(i, *xy) for i, xy in enumerate(square))
        + "</Coordinates>"
    )
    yield "laughs.xml", f'<!DOCTYPE a [<!ENTITY a "lol">{laughs}]>{asap.format("&j;")}'.encode()
    outside = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    yield "external.xml", (outside + asap.format("&x;")).encode()
    yield "root.xml", b"<html/>"
    yield "no-order.xml", asap.format(body.replace("Order", "Ordre")).encode()
    yield "text-order.xml", asap.format(body.replace('Order="1"', 'Order="x"')).encode()
    yield "nan.xml", asap.format(body.replace("90", "nan")).encode()
    yield "not-closed.xml", asap.format(body)[:-30].encode()
    yield "deep.xml", b"<a>" * 50_000
    yield "empty-annotations.xml", b"<ASAP_Annotations/>"


def masks() -> Files:
    for name, data in images():
        if name.endswith(("png", "jpg", "jpeg", "bmp", "ppm")):
            yield name, data
    file = BytesIO()
    Image.new("1", (30_000, 26_000)).save(file, "PNG")
    yield "780-megapixels.png", file.getvalue()
    for mode in ("I", "F", "CMYK", "LAB"):
        file = BytesIO()
        Image.new(mode, (30, 26)).save(file, "TIFF")
        yield f"{mode}.tif", file.getvalue()
    yield "empty.png", b""


class _Marking:
    """Makes the marker when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.marker = str(folder / MARKER)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def weights(folder: Path) -> Files:
    spec, generator = tiny_generator(scale=4)
    state = {name: tensor.detach().half() for name, tensor in generator.state_dict().items()}
    header = {"slidesr": spec.to_json()}
    good = save(state, metadata=header)
    length = struct.unpack_from("<Q", good)[0]
    yield from _broken_containers(good, length)
    yield from _broken_tensors(state, header)
    yield from _broken_specs(state)
    yield "pickle.safetensors", pickle.dumps(_Marking(folder))
    for suffix in ("pth", "pt", "safetensors"):
        file = BytesIO()
        torch.save({"weights": _Marking(folder)}, file)
        yield f"marking-torch.{suffix}", file.getvalue()
    file = BytesIO()
    torch.save(state, file)
    yield "plain-torch.pth", file.getvalue()


def _broken_containers(good: bytes, length: int) -> Files:
    for share in (0.0001, 0.01, 0.5, 0.99):
        yield f"cut-at-{share}.safetensors", good[: int(len(good) * share)]
    for name, claimed in {"0": 0, "1": 1, "2^40": 2**40, "2^63": 2**63, "more": length + 9}.items():
        yield f"header-length-{name}.safetensors", struct.pack("<Q", claimed) + good[8:]
    yield "header-of-9-mb.safetensors", struct.pack("<Q", 9 << 20) + b"{" + b" " * (9 << 20)
    text = good[8 : 8 + length].decode().rstrip()
    table = json.loads(text)
    first = next(name for name in table if name != "__metadata__")
    twice = text[:-1] + f',"{first}":{json.dumps(table[first])}}}'
    changes: dict[str, Any] = {
        "offsets-negative": {"data_offsets": [-8, -4]},
        "offsets-huge": {"data_offsets": [0, 2**62]},
        "offsets-overlap": {"data_offsets": [0, 2]},
        "shape-huge": {"shape": [2**40, 2**40]},
        "shape-negative": {"shape": [-1]},
        "dtype-unknown": {"dtype": "Q99"},
    }
    texts = {
        name: json.dumps(table | {first: table[first] | change}) for name, change in changes.items()
    }
    texts |= {"key-twice": twice, "no-json": text[:-5], "nested": "[" * 90_000, "list": "[]"}
    for name, header in texts.items():
        raw = header.encode()
        yield f"{name}.safetensors", struct.pack("<Q", len(raw)) + raw + good[8 + length :]


def _broken_tensors(state: dict[str, torch.Tensor], header: dict[str, str]) -> Files:
    name = next(iter(state))
    tensor = state[name]
    changes = {
        "nan": tensor * float("nan"), "inf": tensor + float("inf"), "another-shape": tensor[:1],
        "doubles": tensor.double(), "whole": tensor.int(), "complex": tensor.to(torch.complex64),
        "float8": tensor.to(torch.float8_e4m3fn), "huge": torch.full_like(tensor, 65_000),
    }  # fmt: skip
    for kind, changed in changes.items():
        yield f"tensor-{kind}.safetensors", save(state | {name: changed.contiguous()}, header)
    yield "tensor-missing.safetensors", save({k: v for k, v in state.items() if k != name}, header)
    yield "tensor-more.safetensors", save(state | {"more": torch.zeros(3)}, header)
    all_huge = {key: torch.full_like(value, 60_000) for key, value in state.items()}
    yield "all-huge.safetensors", save(all_huge, header)


def _broken_specs(state: dict[str, torch.Tensor]) -> Files:
    spec, _ = tiny_generator(scale=4)
    table = asdict(spec)
    giant = {"channels": 512, "blocks": 64, "expansion": 16, "window": 256}
    changes: dict[str, Any] = {
        "giant": {"generator": table["generator"] | giant},
        "window-256": {"generator": table["generator"] | {"window": 256}},
        "window-0": {"generator": table["generator"] | {"window": 0}},
        "channels-2^40": {"generator": table["generator"] | {"channels": 2**40}},
        "scale-3": {"generator": table["generator"] | {"scale": 3}},
        "scale-16": {"generator": table["generator"] | {"scale": 16}},
        "unknown-field": {"generator": table["generator"] | {"evil": 1}},
        "name-is-a-list": {"name": []},
        "name-of-escapes": {"name": "\x1b[31m[bold red]tiny\n[/]"},
        "um-nan": {"trained_um_per_px": [float("nan"), float("inf")]},
        "um-0": {"trained_um_per_px": [0, 0]},
        "um-text": {"trained_um_per_px": "ab"},
    }
    for name, change in changes.items():
        yield f"spec-{name}.safetensors", save(state, {"slidesr": json.dumps(table | change)})
    yield "spec-nested.safetensors", save(state, {"slidesr": "[" * 90_000})
    yield "spec-empty.safetensors", save(state, {"slidesr": ""})
    yield "no-spec.safetensors", save(state)
    yield "another-kind.safetensors", save(state, {"slidesr_encoder": json.dumps(table)})


def sparse_giant(folder: Path) -> Iterator[tuple[str, Path]]:
    """Weights that are whole and of a network within the bounds, all zeros: holes on the disk."""
    spec, _ = tiny_generator(scale=4)
    for name, channels, blocks, expansion in (("deep", 512, 64, 2), ("wide", 256, 64, 4)):
        generator = GeneratorSpec(4, channels=channels, blocks=blocks, expansion=expansion)
        with torch.device("meta"):
            state = Generator(generator).state_dict()
        table = asdict(spec) | {"generator": asdict(generator)}
        entries: dict[str, Any] = {"__metadata__": {"slidesr": json.dumps(table)}}
        end = 0
        for key, tensor in state.items():
            size = 2 * tensor.numel()
            entries[key] = {
                "dtype": "F16",
                "shape": list(tensor.shape),
                "data_offsets": [end, end + size],
            }
            end += size
        raw = json.dumps(entries).encode()
        raw += b" " * (-len(raw) % 8)
        path = folder / f"sparse-{name}.safetensors"
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + end)
        yield "--model", path
