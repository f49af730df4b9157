"""Records a run, in its folder and in wandb."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import netrc
import os
import secrets
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image

from datasets.task import UserError
from utils.command import printable
from utils.files import write_whole
from utils.run.record import read_metrics

if TYPE_CHECKING:
    from utils.run.page import Result

MODES = ("auto", "online", "offline", "disabled")
# Where wandb draws beside each other what belongs together; `metrics.jsonl` keeps the names.
PANELS = {
    "train/images_per_second": "time/images_per_second",
    "train/waiting": "time/waiting",
    "train/memory_gib": "memory/used_gib",
}

# Console, code and git stay out of wandb's record. The rest costs wandb's process time, not ours.
# Names that the installed wandb does not know are left out.
SETTINGS = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "init_timeout": 30,  # seconds until a machine without network goes on without wandb's server
    "finish_timeout": 120,  # seconds of upload at the end; the rest stays on disk for `wandb sync`
}


class RunLogger:
    """Writes what a run has learnt to its folder, and to wandb. wandb never ends or stops a run.

    folder: created if missing. A run resumed by its `run_id` keeps the `config.json` it finds.
    config: settings of the run; what JSON cannot say, such as a Path, is written as its str.
    mode: "auto" obeys WANDB_MODE (or `wandb offline`), else is online where a key is configured and
        offline where none is. "online" without a key records offline and says so.
    name: what wandb calls the run, default the folder's name. WANDB_PROJECT names the project.
    run_id: the `run_id` of the run that this one resumes, so that wandb continues it.

    Any error of wandb is one line on stderr; files in `folder` are written all the same.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        mode: str = "auto",
        name: str | None = None,
        run_id: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"--wandb {mode}: expected one of {', '.join(MODES)}")
        self.folder = folder
        self.run_id = run_id or secrets.token_hex(4)
        self._start = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2, default=str)
        if not (run_id and (folder / "config.json").exists()):
            write_whole(folder / "config.json", f"{text}\n".encode())
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._run: WandbRun | NullLogger = NullLogger()
        self._num_skipped = 0
        if mode != "disabled":
            try:
                self._run = open_wandb(
                    folder, json.loads(text), mode, name or folder.resolve().name, self.run_id
                )
            except Exception as error:  # whatever wandb raises: it must not end a training run
                _warn(error, f"this run is recorded only in {folder}")

    @property
    def link(self) -> str:
        """Where wandb has this run: an address, or a folder for `wandb sync`; empty when off."""
        return self._run.link

    @property
    def seconds(self) -> float:
        """That the run has taken so far."""
        return time.perf_counter() - self._start

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line of values, on the host already. NaN and inf are written as null."""
        self._write(step, {k: float(v) if math.isfinite(v) else None for k, v in values.items()})
        self._send("log", step, values)

    def images(self, step: int, pictures: dict[str, Image.Image]) -> None:
        """Save RGB pictures as `samples/{step:06d}_{name}.png`; wandb gets small JPEGs of them."""
        (self.folder / "samples").mkdir(exist_ok=True)
        for name, picture in pictures.items():
            path = self.folder / "samples" / f"{step:06d}_{name.replace('/', '_')}.png"
            write_whole(path, partial(picture.save, format="PNG"))
        self._send("images", step, pictures)

    def skipped(self, step: int, listed: dict[str, str]) -> None:
        """Give wandb the members that the run goes on without, and why, whenever there are more."""
        if len(listed) > self._num_skipped:
            self._num_skipped = len(listed)
            self._send("skipped", step, listed)

    def judged(self, step: int, results: Sequence[Result], planned: float) -> None:
        """Give wandb what an evaluation found. planned: GiB of a step, 0 where it is not known."""
        self._send("judged", step, results, planned)

    def left_out(self, step: int, keys: list[str]) -> None:
        """Append a line for a step whose loss was not finite, with the images that it saw."""
        self._write(step, {"not_finite": keys})

    def _write(self, step: int, values: dict[str, Any]) -> None:
        seconds = round(self.seconds, 2)
        self._lines.write(json.dumps({"step": step, "time": seconds, **values}) + "\n")
        self._lines.flush()

    def truncate(self, step: int) -> None:
        """Forget the lines after `step`, and any broken one: a resumed run writes them anew.

        The time of the last line kept is where this run's time goes on from. -1 forgets everything.
        """
        path = self.folder / "metrics.jsonl"
        self._lines.close()
        lines = [line for line in read_metrics(path) if (line["step"] or 0) <= step]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._lines = path.open("a", encoding="utf-8")
        before = lines[-1].get("time") if lines else None
        self._start = time.perf_counter() - (before or 0.0)

    def finish(self, summary: dict[str, float]) -> None:
        """Close the files, give wandb the run's final scores, and end wandb's service process."""
        self._lines.close()
        self._send("finish", summary)

    def _send(self, method: str, *values: Any) -> None:
        try:
            getattr(self._run, method)(*values)
        except Exception as error:  # as above; one warning, then wandb is off
            broken, self._run = self._run, NullLogger()
            with contextlib.suppress(Exception):
                broken.close()
            _warn(error, f"wandb misses what follows, it is only in {self.folder}")


class NullLogger:
    """The logger of a rank that writes nothing; and what stands for wandb when it is off."""

    run_id = link = ""
    seconds = 0.0

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def images(self, step: int, pictures: dict[str, Image.Image]) -> None: ...

    def skipped(self, step: int, listed: dict[str, str]) -> None: ...

    def judged(self, step: int, results: Sequence[Result], planned: float) -> None: ...

    def left_out(self, step: int, keys: list[str]) -> None: ...

    def truncate(self, step: int) -> None: ...

    def finish(self, summary: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class WandbRun:
    """One wandb run. Steps must not fall: wandb drops what comes for a step it has passed."""

    def __init__(self, wandb: Any, run: Any, folder: Path, link: str) -> None:
        self._wandb, self._run, self._folder = wandb, run, folder
        self.link = link

    def log(self, step: int, values: dict[str, float]) -> None:
        """Values of a step."""
        shown = {PANELS.get(name, name): value for name, value in values.items()}
        if "train/lr" in values:
            shown["train/lr_encoder"] = values["train/lr"] * self._run.config.get("encoder_lr", 1.0)
        self._run.log(shown, step=step)

    def images(self, step: int, pictures: dict[str, Image.Image]) -> None:
        """Pictures of a step, made smaller."""
        from utils.run.dashboard import small_jpeg

        small = {f"panels/{name}": small_jpeg(self._wandb, each) for name, each in pictures.items()}
        self._run.log(small, step=step)

    def judged(self, step: int, results: Sequence[Result], planned: float) -> None:
        """Bars, confusions and tables of samples."""
        from utils.run.dashboard import dashboard  # with torch, which a record can do without

        plan = {"memory/planned_gib": planned} if planned else {}
        self._run.log(dashboard(self._wandb, results) | plan, step=step)

    def skipped(self, step: int, listed: dict[str, str]) -> None:
        """A table of all members left out so far, and why."""
        rows = [list(item) for item in listed.items()]
        table = self._wandb.Table(columns=["member", "reason"], data=rows)
        self._run.log({"skipped_members": table}, step=step)

    def finish(self, summary: dict[str, float]) -> None:
        """Final scores, and online the best weights; nothing can be sent afterwards."""
        self._run.summary.update(summary)
        best = self._folder / "best.pt"
        if best.is_file() and not self._run.offline:
            self._run.log_artifact(str(best), name=f"{self._run.id}-best", type="model")
        self._run.finish()
        self.close()

    def close(self) -> None:
        """End what wandb runs beside this process."""
        self._wandb.teardown()  # ends the service process


def open_wandb(
    folder: Path, config: dict, mode: str, name: str, run_id: str
) -> WandbRun | NullLogger:
    """Start or continue the wandb run `run_id`, its files in folder/wandb. Never prompts.

    Where the server does not answer, the run is recorded offline. Raises what wandb raises if that
    fails too; then no service process is left behind.
    """
    wandb: Any = importlib.import_module("wandb")

    def start(mode: str) -> WandbRun:
        # The mode for the whole process, not only for init: else 0.31 asks its server even offline.
        """The run in that mode, for the whole process."""
        # Pictures of tables wait here until they are uploaded, not in the home folder.
        os.environ.setdefault("WANDB_DATA_DIR", str((folder / "wandb").resolve()))
        wandb.setup(wandb.Settings(**known, mode=mode))
        run = wandb.init(
            project=settings.project or "manyhead",
            name=name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=fields_of(config),
        )
        link = run.url if mode == "online" else str(Path(run.dir).parent)
        return WandbRun(wandb, run, folder, link)

    known = {k: v for k, v in SETTINGS.items() if k in wandb.Settings.model_fields}
    try:
        settings = wandb.setup(wandb.Settings(**known)).settings
        mode = resolve_mode(mode, settings)
        if mode == "online":
            try:
                return start("online")
            except Exception as error:  # no network, a wrong key, a full disk at the other end
                _warn(error, "this run is recorded offline")
                wandb.teardown()  # forget the attempt, or its run id is taken
        return start("offline") if mode != "disabled" else NullLogger()
    except BaseException:
        wandb.teardown()
        raise


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config with its settings as fields of their own, by which wandb sorts and filters
    runs, and tasks by name."""
    tasks = {task["name"]: task for task in config.get("tasks", ())}
    others = {name: value for name, value in config.items() if name != "settings"}
    return others | config.get("settings", {}) | ({"tasks": tasks} if tasks else {})


def resolve_mode(wanted: str, settings: Any) -> str:
    """online, offline or disabled: the one wanted, as far as wandb's own settings allow."""
    if wanted == "auto" and settings.mode in ("offline", "dryrun", "disabled"):
        return "disabled" if settings.mode == "disabled" else "offline"
    if wanted == "offline" or has_key(settings):
        return "offline" if wanted == "offline" else "online"
    if wanted == "online":
        _warn("no API key is configured (`wandb login`)", "this run is recorded offline")
    return "offline"


def has_key(settings: Any) -> bool:
    """Whether wandb will find a key by itself: in the environment, its settings or the netrc file.

    Looks only; `wandb.login()` would prompt, or ask the server.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(settings.base_url).netloc
    hosts = {host, "api.wandb.ai"} if host == "api.forge.coreweave.com" else {host}  # one server
    paths = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    path = next((p for p in map(os.path.expanduser, paths) if os.path.exists(p)), None)
    try:
        known = netrc.netrc(path).hosts if path else {}
    except (OSError, netrc.NetrcParseError):
        known = {}
    return bool(settings.api_key) or any(known.get(host, ("", "", ""))[2] for host in hosts)


def _warn(error: Exception | str, lost: str) -> None:
    what = " ".join(str(error).split())[:200] or type(error).__name__
    print(printable(f"warning: wandb: {what}; {lost}"), file=sys.stderr)
