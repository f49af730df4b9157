"""Writes the regions of a map in the formats of others: `WRITERS`, by the name of the format.

Coordinates are those of `regions`: pixels from the upper left corner, y down.
"""

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from datasets.shapes import filled
from datasets.task import Classes, Mask
from utils.paint import rgb, shrunk
from utils.regions import Region
from utils.visualize import class_picture

ORIGIN = "pixels from the upper left corner of the image, x to the right, y down"
DIGITS = 2  # of a coordinate
LONGEST = 2000  # pixels of the photograph in an SVG
INKSCAPE = "http://www.inkscape.org/namespaces/inkscape"


class Map(NamedTuple):
    """What is written. name: of the photograph's file. pixels: uint8 (H, W, 3). tolerance: see
    `find_regions`. mm: millimetres of a pixel (across, down), where they are known. alpha: see
    `Style`. notes: texts that stand in the file."""

    name: str
    pixels: np.ndarray
    output: Classes | Mask
    regions: Sequence[Region]
    tolerance: float
    mm: tuple[float, float] | None
    alpha: float
    notes: dict[str, str]


def geojson(drawn: Map) -> str:
    """A FeatureCollection of one MultiPolygon a region. Its `classification` is QuPath's."""
    features = []
    for region in drawn.regions:
        properties: dict[str, Any] = {
            "class": region.name,
            "label": class_picture(drawn.output).codes[region.label],
            "area_px": region.area,
        }
        if drawn.mm:
            properties["area_mm2"] = round(region.area * drawn.mm[0] * drawn.mm[1], 4)
        properties |= {
            "box": region.box,
            "objectType": "annotation",
            "classification": {"name": region.name, "color": rgb(region.color)},
        }
        polygons = [[ring.tolist() for ring in rings] for rings in rings_of(region.outline)]
        geometry = {"type": "MultiPolygon", "coordinates": polygons}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    height, width = drawn.pixels.shape[:2]
    collection = drawn.notes | {
        "type": "FeatureCollection",
        "image": {"file_name": drawn.name, "width": width, "height": height},
        "coordinates_are": ORIGIN,
        "tolerance_px": drawn.tolerance,
        "features": features,
    }
    return f"{json.dumps(collection)}\n"


def coco(drawn: Map) -> str:
    """One annotation a region: polygons, or run lengths where it has holes, which they cannot."""
    height, width = drawn.pixels.shape[:2]
    annotations = []
    for i, region in enumerate(drawn.regions, 1):
        parts = rings_of(region.outline)
        has_holes = any(len(rings) > 1 for rings in parts)
        segmentation = (
            {"size": [height, width], "counts": run_lengths(region, height, width)}
            if has_holes
            else [ring[:-1].reshape(-1).tolist() for (ring,) in parts]
        )
        annotations.append(
            {
                "id": i,
                "image_id": 1,
                "category_id": region.label,
                "segmentation": segmentation,
                "area": region.area,
                "bbox": region.box,
                "iscrowd": int(has_holes),
            }
        )
    names = [(i, name) for i, name in enumerate(class_picture(drawn.output).names) if name]
    kind = drawn.output.name
    data = drawn.notes | {
        "info": {"description": f"{kind} of {drawn.name}"},
        "images": [{"id": 1, "file_name": drawn.name, "width": width, "height": height}],
        "categories": [{"id": i, "name": name, "supercategory": kind} for i, name in names],
        "annotations": annotations,
    }
    return f"{json.dumps(data)}\n"


def run_lengths(region: Region, height: int, width: int) -> list[int]:
    """COCO's: how many pixels in turn are not and are in a region, column by column."""
    left, top, across, down = region.box
    inside = np.zeros((across, down + 1), bool)
    rings = [ring - (left, top) for rings in rings_of(region.exact) for ring in rings]
    inside[:, :-1] = filled(rings, (down, across)).T
    edges = np.flatnonzero(np.diff(inside.reshape(-1), prepend=False))  # where it changes
    column, row = np.divmod(edges, down + 1)
    places = (left + column) * height + top + row
    return np.diff(places, prepend=0, append=height * width).tolist()


def svg(drawn: Map) -> str:
    """A layer for each class, over the photograph in a layer of its own, of at most LONGEST pixels
    a side."""
    height, width = drawn.pixels.shape[:2]
    size = f'width="{width}" height="{height}"'
    if drawn.mm:
        size = f'width="{width * drawn.mm[0]:.2f}mm" height="{height * drawn.mm[1]:.2f}mm"'
    lines = [f"<!-- {key}: {value} -->" for key, value in drawn.notes.items()] + [
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:inkscape="{INKSCAPE}" {size} '
        f'viewBox="0 0 {width} {height}" preserveAspectRatio="none">',
        f"<title>{html.escape(f'{drawn.output.name} of {drawn.name}')}</title>",
        _layer("photograph"),
        f'<image width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/jpeg;base64,{_jpeg(drawn.pixels)}"/>',
        "</g>",
    ]
    line = max(1, max(height, width) / 1200)
    for label in dict.fromkeys(region.label for region in drawn.regions):
        layer = [region for region in drawn.regions if region.label == label]
        color = f"#{layer[0].color}"
        style = f'fill="{color}" fill-opacity="{drawn.alpha}" fill-rule="evenodd" '
        style += f'stroke="{color}" stroke-width="{line:.2f}" stroke-linejoin="round"'
        lines.append(_layer(layer[0].name, style))
        for region in layer:
            rings = (ring for rings in rings_of(region.outline) for ring in rings)
            path = "".join(
                "M" + " ".join(f"{x:g},{y:g}" for x, y in ring[:-1].tolist()) + "Z"
                for ring in rings
            )
            title = html.escape(f"{region.name}, {area_text(region.area, drawn.mm)}")
            lines.append(f'<path d="{path}"><title>{title}</title></path>')
        lines.append("</g>")
    return "\n".join([*lines, "</svg>\n"])


def area_text(pixels: int, mm: tuple[float, float] | None) -> str:
    """ "1,234 px, 5.6 mm2" """
    text = f"{pixels:,} px"
    return f"{text}, {pixels * mm[0] * mm[1]:,.4g} mm\u00b2" if mm else text


def rings_of(outline: Any) -> list[list[np.ndarray]]:
    """Of each polygon of an outline its rings, (N, 2) each: the outer one, then holes."""
    return [
        [np.round(ring.coords, DIGITS) for ring in (part.exterior, *part.interiors)]
        for part in outline.geoms
    ]


def _layer(name: str, style: str = "") -> str:
    name = html.escape(name)
    return f'<g inkscape:groupmode="layer" inkscape:label="{name}" id="{name}" {style}>'


def _jpeg(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    shrunk(pixels, LONGEST).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


WRITERS: dict[str, tuple[str, Callable[[Map], str]]] = {
    "geojson": (".geojson", geojson),
    "coco": ("_coco.json", coco),
    "svg": (".svg", svg),
}
