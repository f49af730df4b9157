"""Checkpoint and images in; pictures, scores or an exported network out. `load` is for Python."""

import gc
import json
import sys
from argparse import Namespace
from pathlib import Path

from datasets import TASKS
from utils.flags import answer_help
from utils.infer_flags import infer_parser
from utils.stop import end_on_signals

if __name__ == "__main__":
    end_on_signals()
    answer_help(sys.argv[1:], infer_parser)  # what follows imports torch, which takes seconds

import torch

from datasets.dataset import DenseDataset, open_split
from datasets.demo import demo_shards
from datasets.images import allow_pixels
from datasets.index.sources import ImageSource, find_images, first_images, result_paths
from datasets.stores import parse_path, shown
from datasets.task import Task, UserError, read_task
from models.export import export
from utils import checkpoint
from utils.command import print_lines, printable, run_command
from utils.distributed import Distributed
from utils.eight_bits import to_int8
from utils.maps import results
from utils.maps.predict_files import Tally, predict_files
from utils.maps.summary import json_lines, refuse_other_summaries, write_summary
from utils.package import slim, write_package
from utils.run.origin import origin
from utils.run.page import Result, refuse_other_page, write_page
from utils.skipped import Skipped
from utils.trained import ImagePredictor, TrainedTask, load
from utils.uncertainty import Question, ask, asked_outputs, refuse_other_lists, write_questions
from utils.validation import judge, scores_of

DATA = Path("data")
RUNS = Path("runs")
SHIPPED = Path(__file__).parent / "models"
NUM_DEMO = 12


def main() -> int:
    """Predict; 0 when done, 1 when some images cannot be read, 2 with one line for a mistake, 130
    when stopped by Ctrl-C."""
    return run_command(lambda: run(infer_parser(TASKS).parse_args()))


def run(args: Namespace) -> int:
    """Load the network once, then do the one thing that was asked for; the status."""
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: a file, expected a folder")
    if args.int8 and not (args.export or "").endswith(".onnx"):
        raise UserError(f"--int8 {args.int8}: expected --export FILE.onnx beside it")
    allow_pixels(args.max_pixels)
    if args.input == ["-"] and not (args.export or args.evaluate):
        args.input = [line for line in sys.stdin.read().splitlines() if line.strip()]
        if not args.input:
            raise UserError("--input -: no name on standard input, expected one a line")
    from_file = args.task and args.task.endswith(".json")
    name = read_task(Path(args.task)).name if from_file else args.task
    path = checkpoint.located(args.weights or checkpoint.find_weights(name, RUNS, SHIPPED))
    device = "cpu" if args.export else args.device
    asked = {key: getattr(args, key) for key in ("amp", "tile", "overlap", "tta", "scale")}
    asked["tta"] = args.tta == [] or args.tta  # alone: as in `load`
    predictor = load(path, task=name, device=device, **asked)
    if __name__ == "__main__":  # else the process is not ours
        predictor.tasks[0].predictor.compute.keep_freed(first_step=False)
    told = shown(path)
    say(f"weights: {told}")
    if args.export:
        write_export(args.export, predictor, path)
        if args.int8:
            for line in to_int8(Path(args.export), *split_of(args, predictor, args.int8)):
                say(line)
        print(f"{args.export}: written", file=sys.stderr)
    elif args.evaluate:
        refuse_other_page(args.out / "report.html")
        results = score(args, predictor)
        print(json.dumps(scores_of(results), indent=2))
        name = " and ".join(each.task.name for each in predictor.tasks)
        facts = {"weights": told, "data": " ".join(args.input or ["demo"]), "split": args.evaluate}
        facts |= origin(predictor.tasks[0].predictor.compute.device)
        write_page(args.out / "report.html", f"{name}, {args.evaluate}", facts, results)
        say(f"report: {args.out / 'report.html'}")
    elif args.ask:
        return ask_all(args, predictor)
    else:
        return predict_all(args, predictor, told)
    return 0


def write_export(target: str, predictor: ImagePredictor, path: Path | str) -> None:
    """The network as a folder to be shared, a small checkpoint, or a graph."""
    file = Path(target)
    is_folder = file.suffix not in (".pt", ".pt2", ".onnx") and file.is_dir()
    if target.endswith("/") or is_folder or not file.suffix:
        write_package(file, path, predictor.network)
    elif file.suffix == ".pt":
        file.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(file, slim(path))
    else:
        export(predictor.network, file)


def score(args: Namespace, predictor: ImagePredictor) -> list[Result]:
    """What each task's network says of a labelled split of the input."""
    opened, skipped = split_of(args, predictor, args.evaluate)
    return [judge(task, own, dataset, skipped, 2) for (task, own), dataset in opened]


def split_of(
    args: Namespace, predictor: ImagePredictor, split: str
) -> tuple[list[tuple[TrainedTask, DenseDataset]], Skipped]:
    """Each task with a labelled split of the input, and what counts its damaged members."""
    skipped, opened = Skipped(args.skip_bad or 0, Distributed(torch.device("cpu")), say), []
    for trained in predictor.tasks:
        task = trained.task
        paths = [parse_path(text) for text in args.input] if args.input else demo(task)
        opened.append((trained, open_split(task, paths, split, args.split_by, skipped.limit)))
    return opened, skipped


def demo(task: Task) -> list[Path]:
    """The demo's shards, drawn first where they are missing."""
    return demo_shards(task, DATA / "demo")


def say(line: str) -> None:
    """Tell whoever watches."""
    print(printable(line), file=sys.stderr)


def ask_all(args: Namespace, predictor: ImagePredictor) -> int:
    """List the images, and crops of large ones, that are most worth a label. The status."""
    outputs = asked_outputs([trained.task for trained in predictor.tasks])
    refuse_other_lists(args.out)
    tally, found = Tally(args.skip_bad, say), list[tuple[Question, str]]()
    for task, own in predictor.tasks:
        if asked := outputs.get(task.name):
            questions = ask(sources_of(args, task), task, own, asked, args.ask, tally)
            found += [(question, "+".join(each.name for each in asked)) for question in questions]
    found = sorted(found, key=lambda each: -each[0].score)[: args.ask]
    status = tally.status
    write_questions(args.out, found)
    for line in tally.lines(args.out / "ask.pdf", "scored"):
        say(line)
    return status


def sources_of(args: Namespace, task: Task) -> list[ImageSource]:
    """What is to be looked at: the input, or some of the demo."""
    if args.input:
        return find_images(args.input, task, say)
    return first_images(demo(task), task, NUM_DEMO)


def predict_all(args: Namespace, predictor: ImagePredictor, path: Path | str) -> int:
    """Every image through every task; results go to --out under the image's name. The status."""
    tally, drawn = Tally(args.skip_bad, say), []
    form = results.Form(
        *(args.alpha, tuple(args.shapes), args.tolerance, args.mm_per_pixel, args.sheet),
        model=f"Manyhead, {'/'.join(Path(path).parts[-2:])}",
        probabilities=args.probabilities,
    )
    if args.sheet:
        refuse_other_summaries(args.out)
    for trained in predictor.tasks:
        task = trained.task
        sources = sources_of(args, task)
        named = list(zip(sources, result_paths(sources, args.out), strict=True))
        predict_files(named, task, trained.predictor, tally, form)
        there = [each for each in named if each[0].where in tally.done | tally.kept]
        drawn += [(each.name, stem, output) for each, stem in there for output in task.outputs]
    for name, rows in tally.texts.items():
        results.write_table(args.out / f"{name}.csv", name, rows)
    status = tally.status
    if args.sheet:
        write_summary(args.out, drawn, args.mm_per_pixel)
    if args.json:
        listed = tally.skipped.listed.items()
        print_lines(json_lines(drawn, args.mm_per_pixel))
        print_lines(json.dumps({"image": where, "error": reason}) for where, reason in listed)
    for line in tally.lines(args.out):
        say(line)
    return status


if __name__ == "__main__":
    status = main()
    gc.freeze()  # a last look for garbage in all of torch takes half a second
    sys.exit(status)
