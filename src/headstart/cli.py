"""The command line: parse, call, print. Each verb's options are its stage's config."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import itertools
import operator
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from headstart.config import did_you_mean

_STAGES = "headstart.stages"
VERBS = {
    "run": ("headstart.recipes", "run", "RunConfig", "a whole recipe, from data to report"),
    "collect": (f"{_STAGES}.collect", "collect", "CollectConfig", "make demonstrations"),
    "pretrain": (f"{_STAGES}.pretrain", "pretrain", "PretrainConfig", "learn the next token"),
    "evaluate": (f"{_STAGES}.evaluate", "evaluate", "EvaluateConfig", "told, and shown once"),
    "score": (f"{_STAGES}.score", "score", "ScoreConfig", "loss on recorded episodes kept out"),
    "finetune": (f"{_STAGES}.finetune", "finetune", "FinetuneConfig", "learn a few demonstrations"),
    "reinforce": (f"{_STAGES}.reinforce", "reinforce", "ReinforceConfig", "learn from reward"),
    "report": (f"{_STAGES}.report", "report", "ReportConfig", "what each point of skill cost"),
    "data": ("", "", "", "look into, check, join, part, view, import and export datasets"),
    "tasks": ("headstart.suites.registry", "", "", "list suites, splits and tasks"),
}
"""verb -> module, function, config, one line. Modules load when their verb is used."""

_PRICES = (
    f"{_STAGES}.price_report",
    "price_report",
    "PriceReportConfig",
    "what skill costs by arm",
)
"""What ``report`` is for a folder of arms' results, and not of a run."""

_WITHOUT_RESUME = ("report", "data", "tasks")

DATA_VERBS = {
    "info": ("info", "InfoConfig", "what is in a dataset, and what it cost"),
    "view": ("view", "ViewConfig", "look at its episodes in the browser"),
    "verify": ("verify", "VerifyConfig", "check every file; one line a problem"),
    "repair": ("repair", "FolderConfig", "keep all that verifies, move the rest aside"),
    "merge": ("merge", "tools.MergeConfig", "several datasets into one"),
    "split": ("split", "tools.SplitConfig", "one into parts: by shares, tasks or numbers"),
    "filter": ("filter_episodes", "tools.FilterConfig", "only the episodes that pass"),
    "compact": ("compact", "FolderConfig", "many small files into few, in place"),
    "import": ("import_dataset", "ImportConfig", "from LeRobot, Minari, robomimic or OGBench"),
    "export": ("export", "ExportConfig", "to Minari"),
}
"""verb of ``headstart data`` -> function and config in headstart.data.commands, one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``headstart``. Returns the exit code: 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    # PyTorch's threads spin while they wait for each other: beside another busy program that costs
    # more than to sleep does (LOG.md). Read when PyTorch is loaded, which it is not yet.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        return _dispatch(arguments)
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        goes_on = arguments[0] not in _WITHOUT_RESUME or arguments[:2] == ["data", "import"]
        kept = "; what was finished is kept, and --resume goes on" if goes_on else ""
        return _fail(f"interrupted{kept}", 130)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(importlib.import_module("importlib.metadata").version("headstart"))
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        raise ValueError(f"unknown verb '{verb}'{did_you_mean(verb, list(VERBS))}")
    if verb == "tasks":
        return _tasks(rest)
    if verb == "data":
        return _data(rest)
    module_name, function, config_name, summary = VERBS[verb]
    if verb == "report" and any(map(importlib.import_module("headstart.arms").is_results, rest)):
        module_name, function, config_name, summary = _PRICES
    module = importlib.import_module(module_name)
    config_class = getattr(module, config_name)
    if verb == "report":
        getattr(module, function)(_parse(verb, summary, config_class, rest))
        return 0
    options = dataclasses.make_dataclass(
        "Options",
        [
            ("config", Annotated[config_class, tyro.conf.arg(name="")]),
            ("out", Annotated[Path, tyro.conf.arg(help="Folder to write to.")]),
            ("resume", Annotated[bool, tyro.conf.arg(help="Go on with the run there.")], False),
        ],
    )
    call = _parse(verb, summary, options, rest)
    with _taken_back(call.out):
        getattr(module, function)(call.config, call.out, call.resume)
    print(call.out / "report.html" if verb == "run" else _card(call.out))
    return 0


def _card(out: Path) -> str:
    """What a stage's card says, if it is still there, without Markdown, and where it wrote."""
    card = out / "README.md"
    _, _, lines = (card.read_bytes().decode() if card.exists() else "").partition("\n")
    lines = re.sub("```\n|`", "", lines).strip()
    return f"{lines}\n{out}".lstrip()


@contextlib.contextmanager
def _taken_back(out: Path) -> Iterator[None]:
    """If a mistake is found when a stage has made its folder and done nothing yet, the folder
    goes again, so that the corrected command may use it."""
    is_new = not out.exists()
    try:
        yield
    except ValueError:
        names = {path.name for path in out.rglob("*") if not path.is_dir()}
        if is_new and names <= {"config.json", "recipe.json"}:
            shutil.rmtree(out, ignore_errors=True)
        raise


def _data(arguments: list[str]) -> int:
    """``headstart data VERB``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_data_usage())
        return 0
    verb, *rest = arguments
    if verb not in DATA_VERBS:
        raise ValueError(f"unknown verb 'data {verb}'{did_you_mean(verb, list(DATA_VERBS))}")
    function, config, summary = DATA_VERBS[verb]
    commands = importlib.import_module("headstart.data.commands")
    config_class = operator.attrgetter(config)(commands)
    return getattr(commands, function)(_parse(f"data {verb}", summary, config_class, rest))


def _parse(verb: str, summary: str, cls: Any, arguments: list[str]) -> Any:
    """The options as an instance of ``cls``; a mistake is one line that says what is right."""
    output = _Captured()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            return tyro.cli(cls, prog=f"headstart {verb}", description=summary, args=arguments)
    except SystemExit as stop:
        if stop.code in (0, None):
            nothing = re.compile(r"\(default: (''|None)?\)")
            print(nothing.sub(lambda m: " " * len(m[0]), output.getvalue()), end="")
            raise
        known = sorted(set(re.findall(r"--[a-z][a-z0-9.-]*", _options(cls))))
        for argument in arguments:
            option = argument.partition("=")[0].replace("_", "-")
            if option.startswith("--") and option not in known:
                near = did_you_mean(option, known)
                raise ValueError(f"headstart {verb}: unknown option '{option}'{near}") from None
        raise ValueError(f"headstart {verb}: {_in_a_line(output.getvalue())}") from None


class _Captured(io.StringIO):
    """Keeps what tyro writes, and has it draw its boxes in one way wherever we run."""

    encoding = "utf-8"


def _in_a_line(text: str) -> str:
    """The first part of what tyro says in a box, in our words; then come its title and help."""
    lines = [line.strip("\u2502 ") for line in text.splitlines() if not line.startswith("\u256d")]
    body = itertools.takewhile(lambda line: not re.match("[\u2500\u2570]", line), lines)
    message = " ".join(line for line in body if line)
    for theirs, ours in (
        (r"Missing from headstart [^:]*:", "missing:"),
        (r" \(required\)", ""),
        (r"Error parsing (config\.|\w+Config: )?", ""),
        (r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number"),
        (r"could not convert string to float: (.*)", r"\1 is not a number"),
        ("Unrecognized options:", "nothing takes"),
    ):
        message = re.sub(theirs, ours, message)
    return message


def _options(cls: Any) -> str:
    """The help text of a parser."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        tyro.cli(cls, args=["--help"])
    return output.getvalue()


def _tasks(arguments: list[str]) -> int:
    """List splits, or with a pattern the tasks whose name has it."""
    registry = importlib.import_module(VERBS["tasks"][0])
    if any(a in ("-h", "--help") for a in arguments):
        print("usage: headstart tasks [PATTERN]\n\nlist splits, and tasks whose name has PATTERN")
        return 0
    pattern = arguments[0] if arguments else ""
    tasks = [task for task in registry.all_tasks() if pattern in task.id]
    if not tasks:
        near = did_you_mean(pattern, [task.name for task in registry.all_tasks()])
        raise ValueError(f"no task has '{pattern}' in its name{near}")
    for suite, module in registry.SUITES.items():
        for split, names in module.SPLITS.items():
            print(f"{suite}/{split}  ({len(names)} tasks)")
    print()
    for task in tasks:
        print(f"{task.id:42s} {task.instruction}")
    return 0


def _usage() -> str:
    verbs = "\n".join(f"  {verb:10s} {summary}" for verb, (*_, summary) in VERBS.items())
    return (
        "usage: headstart VERB [options]\n\n"
        "Pre-train one sequence model on robot data, see what it can do off the bat, and read\n"
        "what each point of skill cost.\n\n"
        f"{verbs}\n\n"
        "headstart VERB --help lists a verb's options. Start with: headstart run --recipe laptop"
        " --out runs/first"
    )


def _data_usage() -> str:
    verbs = "\n".join(f"  {verb:10s} {summary}" for verb, (*_, summary) in DATA_VERBS.items())
    return (
        "usage: headstart data VERB [options]\n\n"
        "Work on datasets: LeRobot v3 folders, ours or imported.\n\n"
        f"{verbs}\n\n"
        "headstart data VERB --help lists a verb's options. Start with: headstart data import"
        " SRC DST"
    )


def _fail(message: str, code: int = 2) -> int:
    name = "" if message.startswith("headstart ") else "headstart: "
    print(f"{name}{' '.join(message.split())}", file=sys.stderr)
    return code


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
