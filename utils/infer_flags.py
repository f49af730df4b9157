"""The flags of infer.py."""

from collections.abc import Mapping
from pathlib import Path

from datasets.task import Task
from utils.flags import Parser, above_zero, field_value, natural, portion, positive, real

TTA = ("flips", "scales")
SHAPES = ("geojson", "coco", "svg")  # in which regions are written


def scale(text: str) -> float | str:
    """A number above 0, or "auto"."""
    return text if text == "auto" else above_zero(text)


def infer_parser(tasks: Mapping[str, Task]) -> Parser:
    """Every flag of prediction."""
    parser = Parser(
        description="Predict with a trained network; it needs nothing but its checkpoint."
    )
    _add_what(parser, tasks)
    _add_results(parser)
    _add_instead(parser)
    _add_how(parser)
    return parser


def _add_what(parser: Parser, tasks: Mapping[str, Task]) -> None:
    add = parser.add_argument_group("what").add_argument
    text = f"{', '.join(tasks)}, or any task trained below runs/, or its file (.json)"
    add("--task", metavar="NAME|FILE", help=text)
    text = "best.pt or last.pt, a run's folder, or one that --export made, or the address of one "
    text += "(default: the newest best.pt of the task, else the demo weights)"
    add("--weights", metavar="CKPT", help=text)
    text = "images, folders, zips, HDF5; - reads such names from standard input, a line each "
    text += "(default: the demo's validation images)"
    add("--input", nargs="+", metavar="PATH", help=text)
    text = "go on without at most N damaged images or samples (any number, and status 1; with "
    text += "--evaluate 0)"
    add("--skip-bad", type=natural, metavar="N", help=text)
    text = "images of more pixels are not opened: mistakes, or attacks (250 million)"
    add("--max-pixels", type=positive, default=250_000_000, metavar="N", help=text)


def _add_results(parser: Parser) -> None:
    add = parser.add_argument_group("results").add_argument
    add("--out", type=Path, default=Path("predictions"), help="folder for pictures (predictions)")
    text = "write the regions of each class too, with areas: " + ", ".join(SHAPES)
    add("--shapes", nargs="+", choices=SHAPES, default=[], metavar="FORMAT", help=text)
    text = "pixels by which their outlines may leave the pixels' edges; below 0.5 none does (1)"
    add("--tolerance", type=real, default=1.0, metavar="PX", help=text)
    text = "a page of each image (PNG, PDF) with hatching, areas and scale; of all of them "
    text += "summary.csv, summary.json and contents.pdf"
    add("--sheet", action="store_true", help=text)
    text = "millimetres of a pixel, for areas (by the dpi of each image, but for 72 and 96)"
    add("--mm-per-pixel", type=above_zero, metavar="MM", help=text)
    text = "write how likely each class is, too: 16-bit PNG of a mask, NPZ of classes"
    add("--probabilities", action="store_true", help=text)
    text = "print a JSON object of each image on standard output: files, classes, areas, errors"
    add("--json", action="store_true", help=text)
    text = "share of a class's colour in pictures to look at; 0 leaves the outlines (0.4)"
    add("--alpha", type=portion, default=0.4, metavar="SHARE", help=text)


def _add_instead(parser: Parser) -> None:
    add = parser.add_argument_group("instead of predicted images").add_argument
    text = "print scores on a labelled split of --input as JSON (val)"
    add("--evaluate", nargs="?", const="val", metavar="SPLIT", help=text)
    text = "with --evaluate: as in training"
    add("--split-by", type=field_value, metavar="FIELD=VALUE", help=text)
    text = "list the N images, or crops of large ones, that are most worth a label, because the "
    text += "network is least sure of them, in ask.csv and ask.pdf"
    add("--ask", type=positive, metavar="N", help=text)
    text = "write the network as .pt2 (torch.export), .onnx, .pt (a small checkpoint), or a folder "
    text += "to be shared (weights, card, table of classes)"
    add("--export", metavar="FILE|FOLDER/", help=text)
    text = "with --export FILE.onnx: in 8 bits, by the images of a labelled split of --input (val)"
    add("--int8", nargs="?", const="val", metavar="SPLIT", help=text)


def _add_how(parser: Parser) -> None:
    add = parser.add_argument_group("how").add_argument
    text = "side in pixels above which an image is predicted in tiles, 0 is never (1024)"
    add("--tile", type=natural, default=1024, help=text)
    text = "pixels that neighbouring tiles share (8 times the stride of the network: 128 or 256)"
    add("--overlap", type=natural, metavar="PX", help=text)
    text = "show the network images so many times as large, such as 0.25 for a scan of four times "
    text += "the resolution that it was trained at; results have the image's own size; auto: by "
    text += "dpi and the task's pixels_per_mm (1)"
    add("--scale", type=scale, default=1.0, metavar="NUMBER|auto", help=text)
    text = "average over flips: the mirrored image too, scales: 0.75, 1 and 1.25 of the size, or "
    text += "both (off; alone: flips)"
    add("--tta", nargs="*", choices=TTA, metavar="WAY", help=text)
    add("--amp", action="store_true", help="half precision where the device has it")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
