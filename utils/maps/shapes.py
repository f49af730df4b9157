"""Writes the regions of a map in the formats of others, one by one: `WRITERS`, by the name of the
format.

Coordinates are those of `regions`: pixels from the upper left corner, y down.
"""

import base64
import html
import io
import json
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from datasets.place import Place
from datasets.shapes import filled
from datasets.task import Classes, Mask
from utils.maps.regions import Region
from utils.pictures.paint import measure, rgb, shrunk
from utils.pictures.visualize import class_picture

ORIGIN = "pixels from the upper left corner of the image, x to the right, y down"
LONGEST = 2000  # pixels of the photograph in an SVG
INKSCAPE = "http://www.inkscape.org/namespaces/inkscape"


class Map(NamedTuple):
    """What regions are of. name: of the photograph's file. pixels: uint8 (H, W, 3). tolerance: see
    `each_region`. mm: millimetres of a pixel (across, down), where they are known. alpha: see
    `Style`. notes: texts that stand in the file. place: of the photograph on a map."""

    name: str
    pixels: np.ndarray
    output: Classes | Mask
    tolerance: float
    mm: tuple[float, float] | None
    alpha: float
    notes: dict[str, str]
    place: Place | None = None


class Writer(ABC):
    """A file's text, in parts: a head, one for each region, by class, and a tail."""

    def __init__(self, drawn: Map) -> None:
        self.drawn, self.num, self.picture = drawn, 0, class_picture(drawn.output)
        self.height, self.width = drawn.pixels.shape[:2]

    def text(self, region: Region) -> str:
        """The next region's."""
        self.num += 1
        return self.one(region)

    @abstractmethod
    def head(self) -> str:
        """What stands before all regions."""

    @abstractmethod
    def one(self, region: Region) -> str:
        """One region, of this `num` from 1 up."""

    @abstractmethod
    def tail(self) -> str:
        """What stands behind all regions."""


class JsonWriter(Writer):
    """An object whose last value is a list, of something for each region."""

    listed: str

    def head(self) -> str:
        return f'{json.dumps(self.drawn.notes | self.page())[:-1]}, "{self.listed}": ['

    def one(self, region: Region) -> str:
        return f"{',' * (self.num > 1)}\n{json.dumps(self.item(region))}"

    def tail(self) -> str:
        return "\n]}\n"

    @abstractmethod
    def page(self) -> dict[str, Any]:
        """What the object says besides."""

    @abstractmethod
    def item(self, region: Region) -> dict[str, Any]:
        """What the list says of a region."""


class GeoJson(JsonWriter):
    """A FeatureCollection of one MultiPolygon a region. Its `classification` is QuPath's."""

    listed = "features"

    def page(self) -> dict[str, Any]:
        image = {"file_name": self.drawn.name, "width": self.width, "height": self.height}
        return {
            "type": "FeatureCollection",
            "image": image,
            "coordinates_are": ORIGIN,
            "tolerance_px": self.drawn.tolerance,
        } | self._place()

    def _place(self) -> dict[str, Any]:
        """How coordinates of pixels become those of a map, where it is known: x = A (x - 0.5) + B
        (y - 0.5) + C, y = D (x - 0.5) + E (y - 0.5) + F; a world file is A, D, B, E, C, F."""
        if (place := self.drawn.place) is None:
            return {}
        code = {"epsg": place.epsg} if place.epsg else {}
        return {"world_file": place.world} | code

    def item(self, region: Region) -> dict[str, Any]:
        properties: dict[str, Any] = {
            "class": region.name,
            "label": self.picture.codes[region.label],
            "area_px": region.area,
        }
        if mm := self.drawn.mm:
            properties["area_mm2"] = round(region.area * mm[0] * mm[1], 4)
        if region.score is not None:
            properties["score"] = region.score
        properties |= {
            "box": region.box,
            "objectType": "annotation",
            "classification": {"name": region.name, "color": rgb(region.color)},
        }
        return {"type": "Feature", "properties": properties}

    def one(self, region: Region) -> str:
        import shapely

        return f'{super().one(region)[:-1]}, "geometry": {shapely.to_geojson(region.outline)}}}'


class Coco(JsonWriter):
    """One annotation a region: polygons, or run lengths where it has holes, which they cannot."""

    listed = "annotations"

    def page(self) -> dict[str, Any]:
        names = enumerate(self.picture.names)
        kind, name = self.drawn.output.name, self.drawn.name
        size = {"width": self.width, "height": self.height}
        return {
            "info": {"description": f"{kind} of {name}"},
            "images": [{"id": 1, "file_name": name} | size],
            "categories": [{"id": i, "name": n, "supercategory": kind} for i, n in names if n],
        }

    def item(self, region: Region) -> dict[str, Any]:
        parts, (height, width) = rings_of(region.outline), (self.height, self.width)
        has_holes = any(len(rings) > 1 for rings in parts)
        segmentation = (
            {"size": [height, width], "counts": run_lengths(region, height, width)}
            if has_holes
            else [ring[:-1].reshape(-1).tolist() for (ring,) in parts]
        )
        return {
            "id": self.num,
            "image_id": 1,
            "category_id": region.label,
            "segmentation": segmentation,
            "area": region.area,
            "bbox": region.box,
            "iscrowd": int(has_holes),
        } | ({} if region.score is None else {"score": region.score})


class Svg(Writer):
    """A layer for each class, over the photograph in a layer of its own, of at most LONGEST pixels
    a side."""

    label: int | None = None  # of the layer that is open

    def head(self) -> str:
        drawn, width, height = self.drawn, self.width, self.height
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
        ]
        return "\n".join([*lines, ""])

    def one(self, region: Region) -> str:
        lines = []
        if region.label != self.label:
            self.label, line = region.label, max(1, max(self.height, self.width) / 1200)
            color = f"#{region.color}"
            style = f'fill="{color}" fill-opacity="{self.drawn.alpha}" fill-rule="evenodd" '
            style += f'stroke="{color}" stroke-width="{line:.2f}" stroke-linejoin="round"'
            lines += ["</g>", _layer(region.name, style)]
        path = "".join(
            "M" + " ".join(f"{x:g},{y:g}" for x, y in ring[:-1].tolist()) + "Z"
            for rings in rings_of(region.outline)
            for ring in rings
        )
        title = html.escape(f"{region.name}, {area_text(region.area, self.drawn.mm)}")
        title += "" if region.score is None else f", score {region.score:.2f}"
        return "\n".join([*lines, f'<path d="{path}"><title>{title}</title></path>', ""])

    def tail(self) -> str:
        return "</g>\n</svg>\n"


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


def area_text(pixels: int, mm: tuple[float, float] | None) -> str:
    """ "1,234 px, 5.6 mm2" """
    text = f"{pixels:,} px"
    return f"{text}, {measure(pixels * mm[0] * mm[1])} mm\u00b2" if mm else text


def rings_of(outline: Any) -> list[list[np.ndarray]]:
    """Of each polygon of an outline its rings, (N, 2) each: the outer one, then holes."""
    return [
        [np.asarray(ring.coords) for ring in (part.exterior, *part.interiors)]
        for part in outline.geoms
    ]


def _layer(name: str, style: str = "") -> str:
    name = html.escape(name)
    return f'<g inkscape:groupmode="layer" inkscape:label="{name}" id="{name}" {style}>'


def _jpeg(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    shrunk(pixels, LONGEST).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


WRITERS: dict[str, tuple[str, type[Writer]]] = {
    "geojson": (".geojson", GeoJson),
    "coco": ("_coco.json", Coco),
    "svg": (".svg", Svg),
}
