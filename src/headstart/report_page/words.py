"""The report's words: labels, the finding in a sentence, the verdicts, the terminal's table.

Every sentence is made from the numbers, and says so when they are bad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from headstart.artifact import count

ARMS = {  # arm: (label, short label, note)
    "seen.told": ("Told", "told", "an instruction in words"),
    "seen.shown_once": ("Shown once", "shown once", "one demonstration in the prompt"),
    "heldout.shown_once": ("Shown once", "shown once", "one demonstration in the prompt"),
    "heldout.shown_once_official": (
        "Shown once, by another expert",
        "other expert",
        "demonstration by the suite's own policy",
    ),
    "heldout.told": ("Told", "told", "an instruction in words"),
    "heldout.told_and_shown": ("Told and shown", "told + shown", "both cues in the prompt"),
    "heldout.retrieval": (
        "Nearest-neighbour retrieval",
        "retrieval",
        "copies the demonstration's action at the nearest state",
    ),
    "heldout.open_loop": ("Open-loop replay", "open loop", "plays the demonstration back, blind"),
    "heldout.wrong_prompt": (
        "Wrong demonstration",
        "wrong demo",
        "the prompt shows another task",
    ),
    "heldout.no_prompt": ("No prompt", "no prompt", "neither told nor shown"),
    "heldout.demos_1": ("Fine-tuned on 1", "tuned on 1", ""),
    "heldout.demos_5": ("Fine-tuned on 5", "tuned on 5", ""),
    "heldout.scratch_demos_1": ("From scratch on 1", "scratch on 1", ""),
    "heldout.scratch_demos_5": ("From scratch on 5", "scratch on 5", ""),
    "pretrained_shown_once": ("Pre-trained, shown once", "shown once", ""),
    "pretrained_finetune": ("Pre-trained, fine-tuned", "fine-tuned", ""),
    "scratch_imitation": ("Imitation from scratch", "imitation", ""),
    "scratch_reinforce": ("Reinforcement from scratch", "reinforcement", ""),
    "scratch_off_policy": ("Reinforcement from scratch, off-policy", "off-policy", ""),
}
CONTROLS = ("retrieval", "open_loop", "wrong_prompt", "no_prompt")
UNITS = {
    "env_steps": "simulator steps",
    "core_s": "core time",
    "flops": "training FLOPs",
    "wall_s": "wall-clock time",
    "demonstrations": "demonstrations",
    "energy_j": "joules of the whole machine",
}


def percent(rate: float) -> str:
    return f"{100 * rate:.0f} %"


def with_interval(success: dict[str, Any]) -> str:
    low, high = success["interval"]
    return f"{percent(success['mean'])} [{100 * low:.0f}, {100 * high:.0f}]"


def amount(value: float | None) -> str:
    """A number with two or three digits and a decimal prefix: 1234567 is ``1.2M``."""
    if value is None:
        return "unknown"
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{prefix}" if value < 1e21 else f"{value:.2g}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def price(currency: str, value: float | None) -> str:
    """An amount with its unit, e.g. ``412k simulator steps`` or ``2.6 h of a core``."""
    unit = {"core_s": "of a core", "wall_s": ""}.get(currency, UNITS[currency])
    unit = unit.removesuffix("s") if value == 1 else unit
    return f"{bare_price(currency, value)} {unit}".rstrip()


def bare_price(currency: str, value: float | None) -> str:
    """An amount without its unit, but for times, which need one."""
    if value is None:
        return "unknown"
    return duration(value) if currency in ("core_s", "wall_s") else amount(value)


def _short(task: str) -> str:
    return task.split("/")[-1]


def label(arm: str) -> str:
    return ARMS.get(arm, (arm, arm, ""))[0]


def describe(content: dict[str, Any]) -> dict[str, Any]:
    """What the page says about these numbers."""
    tasks = max((len(s["tasks"]) for s in content["heldout"].values()), default=0)
    return {
        "arms": {a: {"label": x, "short": y, "note": z} for a, (x, y, z) in ARMS.items()},
        "headline": headline(content["seen"], content["heldout"]),
        "caveat": caveat(content, tasks),
        "tiles": tiles(content),
        "all_tasks_label": f"mean of {count(tasks, 'task')}",
        "interval_note": (
            "Intervals: bootstrap over seeds, demonstrations and episodes, the tasks fixed; "
            "Wilson's where all outcomes are equal."
        ),
    }


def headline(seen: dict[str, Any], heldout: dict[str, Any]) -> str:
    """The finding in a sentence or two."""
    shown = heldout.get("shown_once")
    if shown is None:
        told = seen.get("told")
        if told is None:
            return "Nothing has been evaluated in this run yet."
        return (
            f"Told what to do, it does tasks it was trained on {with_interval(told)} of the time. "
            "Tasks it never saw have not been tried yet."
        )
    only = "only " if shown["mean"] < 0.25 else ""
    first = (
        "Shown once, with no training, it does tasks it never saw "
        f"{only}{with_interval(shown)} of the time"
    )
    control = best_control(heldout)
    if control is None:
        return f"{first}. No control was run, so this number has nothing to be read against."
    return f"{first}; {against(shown, heldout[control], label(f'heldout.{control}').lower())}."


def best_control(heldout: dict[str, Any]) -> str | None:
    return max(
        (c for c in CONTROLS if c in heldout), key=lambda c: heldout[c]["mean"], default=None
    )


def against(success: dict[str, Any], control: dict[str, Any], name: str) -> str:
    """How a success compares with its best control. Apart: the intervals do not overlap."""
    number = with_interval(control)
    if control["interval"][0] > success["interval"][1]:
        return f"a control that learns nothing, {name}, does better: {number}"
    if control["interval"][1] < success["interval"][0]:
        return f"the best control, {name}, reaches {number}"
    return f"the best control, {name}, is not told apart from it at {number}"


def caveat(content: dict[str, Any], tasks: int) -> str:
    """What the headline's numbers were measured on."""
    protocol = content["protocol"]
    success = content["heldout"].get("shown_once") or content["seen"].get("told")
    parts = [
        count(tasks, "held-out task") if tasks else "",
        str(protocol.get("suite", "")),
        {True: "goal visible", False: "goal hidden"}.get(protocol.get("goal_visible"), ""),
        f"success {protocol['success']}" if "success" in protocol else "",
        f"at most {protocol['max_steps']} steps" if "max_steps" in protocol else "",
        count(success["episodes"], "episode") if success else "",
        count(len(content["seeds"]), "seed"),
        "in brackets: 95 % intervals" if success else "",
    ]
    return " · ".join(part for part in parts if part)


def tiles(content: dict[str, Any]) -> list[dict[str, str]]:
    """Up to four key numbers: {value, label, note, arm}; ``arm`` gives the colour."""
    seen, heldout, found = content["seen"], content["heldout"], []

    def add(value: str, name: str, note: str, arm: str = "") -> None:
        found.append({"value": value, "label": name, "note": note, "arm": arm})

    if shown := heldout.get("shown_once"):
        note, control = "no control was run", best_control(heldout)
        if control:
            name = label(f"heldout.{control}").lower()
            note = f"{percent(heldout[control]['mean'])} by {name}, the best control"
        add(percent(shown["mean"]), "shown once, on tasks it never saw", note, "heldout.shown_once")
    if told := seen.get("told"):
        note = f"{count(len(told['tasks']), 'task')} from the training data, other starts"
        add(percent(told["mean"]), "told, on tasks it was trained on", note, "seen.told")
    if "demos_5" in heldout and "scratch_demos_5" in heldout:
        ours, scratch = heldout["demos_5"]["mean"], heldout["scratch_demos_5"]["mean"]
        gain = round(100 * ours) - round(100 * scratch)
        note = f"{percent(ours)} after pre-training, {percent(scratch)} from scratch"
        value = f"{gain:+d} pts".replace("-", "\u2212")
        name = "from pre-training, given five demonstrations"
        add(value, name, note, "pretrained_finetune")
    if content["upstream"]["wall_s"] is not None:
        even = content["break_even_tasks"].get("wall_s")
        verdict = f". {even['verdict']}, against imitation from scratch" if even else ""
        note = "of data and pre-training" + verdict
        add(duration(content["upstream"]["wall_s"]), "before the first new task", note)
    return found


def break_even(
    currency: str,
    n: float | None,
    interval: Sequence[float | None],
    upstream: float | None,
    adapt: dict[str, Any] | None,
    scratch: dict[str, Any] | None,
) -> dict[str, Any]:
    """The verdict on one currency: {tasks, interval, verdict, reason}; without an N* ``tasks`` is
    None. A bound of the interval that is None is unknown, or beyond any number of tasks.

    Args:
        n: N* of the ledger: inf where pre-training never pays, None where a price is unknown.
        interval: its 95 % interval.
        adapt, scratch: the rows of the price list that were compared; None where no pre-trained
            arm reached any threshold.
    """
    if adapt is None or scratch is None:
        reason = "No pre-trained arm reached a threshold, so there is no saving to count."
        return {
            "tasks": None,
            "interval": [None, None],
            "verdict": "Does not pay",
            "reason": reason,
        }
    where = "the mean of the held-out tasks" if adapt["task"] == "*" else _short(adapt["task"])
    way, other = label(adapt["arm"]).lower(), label(scratch["arm"]).lower()
    ours, theirs = price(currency, adapt["marginal"]), bare_price(currency, scratch["marginal"])
    censored = scratch["censored"] > 0
    reason = (
        f"At {percent(adapt['threshold'])} on {where}: {ours} ({way}) against "
        f"{'more than ' if censored else ''}{theirs} ({other}"
        f"{', which never got there' if censored else ''})."
    )
    if n is None:
        return {"tasks": None, "interval": [None, None], "verdict": "Not known", "reason": reason}
    if n == float("inf"):
        verdict = "Cannot be told" if censored else "Does not pay"
        return {"tasks": None, "interval": [None, None], "verdict": verdict, "reason": reason}
    tasks = max(1, math.ceil(n))
    bounds = [None if b in (None, math.inf) else max(1, math.ceil(b)) for b in interval]
    if bounds[0] is not None:
        high = "never" if bounds[1] is None else f"task {bounds[1]:,}"
        reason += f" 95 % interval: task {bounds[0]:,} to {high}."
    verdict = f"{'At the latest' if censored else 'Pays'} from task {tasks:,} on"
    return {
        "tasks": tasks,
        "interval": bounds,
        "verdict": verdict,
        "reason": f"{reason} Spent before the first task: {bare_price(currency, upstream)}.",
    }


# ---- the terminal


def format_table(report: dict[str, Any]) -> str:
    """The report for a terminal: success, prices, break-even, time. report.json has it all."""
    lines = [report["headline"], report["caveat"], ""]
    lines += table(["success", "", "95 %", "episodes", "seeds"], _success_rows(report))
    # Every arm once: on the mean of the tasks, or on the tasks that it was run on.
    on_all = {row["arm"] for row in report["price"] if row["task"] == "*"}
    currencies = ("env_steps", "core_s", "energy_j")
    shown = [row for row in report["price"] if row["currency"] in currencies]
    prices = [row for row in shown if row["task"] == "*" or row["arm"] not in on_all]
    if prices:
        shared = f"1 of {report['amortised_over']}"
        head = ["price of", "way", "", "a point", "this task", shared, "with all before"]
        lines += ["", *table(head, [_price_cells(row) for row in prices])]
    for name, other in (
        ("break_even_tasks", "with the same demonstrations"),
        ("break_even_tasks_reward_only", "from reward alone"),
    ):
        if report[name]:
            lines += ["", f"break-even against learning from scratch, {other}"]
            for currency, even in report[name].items():
                lines += [
                    f"  {UNITS[currency]}: {even['verdict'].lower()}",
                    f"      {even['reason']}",
                ]
    spent = {stage: s for stage, s in report["wall_s"].items() if s is not None}
    if spent:
        lines += ["", "time  " + "  ".join(f"{stage} {duration(s)}" for stage, s in spent.items())]
    joules = [f"{b['stage']} {amount(b['energy_j'])}J" for b in report["bill"] if b["energy_j"]]
    if joules:
        lines.append("energy of the whole machine meanwhile  " + "  ".join(joules))
    return "\n".join(lines)


def _success_rows(report: dict[str, Any]) -> list[list[str]]:
    rows = []
    for group in ("seen", "heldout"):
        known = [arm for arm in ARMS if arm.startswith(f"{group}.")]
        names = [f"{group}.{name}" for name in report[group]]
        for arm in sorted(names, key=lambda a: known.index(a) if a in known else len(known)):
            success = report[group][arm.partition(".")[2]]
            low, high = (100 * bound for bound in success["interval"])
            interval = f"[{low:.0f}, {high:.0f}]"
            episodes = f"{success['episodes']:,}"
            rows.append([arm, percent(success["mean"]), interval, episodes, str(success["seeds"])])
    return rows


def _price_cells(row: dict[str, Any]) -> list[str]:
    over = "> " if row["censored"] else ""
    task = "all tasks" if row["task"] == "*" else _short(row["task"])
    prices = [row["per_point"], row["marginal"], row["amortised"], row["full"]]
    cells = ["unknown" if p is None else over + bare_price(row["currency"], p) for p in prices]
    unit = UNITS[row["currency"]]
    return [f"{percent(row['threshold'])} {task}", row["arm"], unit, *cells]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i and cell[:1] in "0123456789[<>-u\u221e" else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *rows]
    ]
