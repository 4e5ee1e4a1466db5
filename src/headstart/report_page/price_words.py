"""The words of the price report: labels, verdicts, the terminal's tables.

Every sentence is made from the numbers, and says so when they are bad.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from headstart.arms import CURRENCIES, Arm
from headstart.artifact import count
from headstart.report_page.words import UNITS, bare_price, percent, table

SHOWN = 0.8
"""The threshold of the terminal's tables and of the headline; report.json has them all."""
LABELS = {
    "scratch": "From scratch, PPO",
    "off_policy": "From scratch, off-policy",
    "sb3_ppo": "Stable-Baselines3, PPO",
    "sb3_ppo_ours": "Stable-Baselines3, PPO, our settings",
    "sb3_sac": "Stable-Baselines3, SAC",
    "sb3_sac_ours": "Stable-Baselines3, SAC, our settings",
    "sb3_tqc": "Stable-Baselines3, TQC",
    "published_tdmpc2": "TD-MPC2, published",
    "published_sac": "SAC, published with TD-MPC2",
    "rlpd": "From scratch, off-policy, demonstrations in its buffer",
    "imitation": "Imitation from scratch",
    "imitation_same_data": "Imitation from scratch, a task at a time, on the prior's data",
    "told": "Prior, told, learns from reward",
    "lifted": "Prior, shown its own data of a task that it knows badly, learns from reward",
    "shown": "Prior, shown once, learns from reward",
    "demos": "Prior, fine-tuned, learns from reward",
    "prior_of_all": "A small prior of all tasks, told, nothing learned",
    "off_the_bat": "Prior, told, nothing learned",
    "shown_once": "Prior, shown once, nothing learned",
    "finetuned": "Prior, fine-tuned",
}
"""In the order of the tables."""
ACCESS = {
    "reward": "reward only",
    "demonstrations": "the same demonstrations",
    "imitation": "as many demonstrations as it takes",
}
ARMS_IN_A_ROW = 6
INFINITE = "\u221e"
"""Of a ratio: the other side is free. Of a bound: there is none."""
NOT_TOLD = "cannot be told"
LATEST = {"": "", "<=": " at the latest", ">=": " at the earliest"}


def about(arm: Arm) -> dict[str, str]:
    """{label, short, note}: what the page and the tables call an arm."""
    label = LABELS.get(_kind(arm.name), _kind(arm.name))
    if arm.demonstrations and (arm.name[-1].isdigit() or arm.name.endswith("_success")):
        label += f", {count(arm.demonstrations, 'demonstration')}"
    notes = [
        "success-only reward" if arm.reward == "success" else "",
        "another library" if arm.peer and arm.measured == "here" else "",
        "others' curves: success at the end of 200 steps" if arm.measured == "published" else "",
        "from the prior's own report" if arm.measured == "prior" else "",
    ]
    note = ", ".join(note for note in notes if note)
    return {"label": label, "short": _short(arm.name), "note": note}


def order(arm: Arm) -> tuple:
    """The place of an arm in every table."""
    kinds, kind = list(LABELS), _kind(arm.name)
    place = kinds.index(kind) if kind in kinds else len(kinds)
    return place, arm.demonstrations, arm.name


def _kind(arm: str) -> str:
    return re.sub(r"_\d+$", "", arm.removesuffix("_success"))


# ---- numbers


def priced(currency: str, value: float | None, censored: bool = False) -> str:
    """A price; a lower bound has ``>= ``."""
    if value is not None and math.isinf(value):
        return INFINITE
    return (">= " if censored and value is not None else "") + bare_price(currency, value)


def money(core_s: float | None, per_core_s: float, censored: bool) -> str:
    """Two digits are as good as the prices are."""
    if core_s is None:
        return "unknown"
    return f"{'>= ' if censored else ''}{core_s * per_core_s:.2g}"


def times(estimate: dict[str, Any] | None) -> str:
    """A ratio with its interval, e.g. ``>= 12× [8.1, ∞]``."""
    if estimate is None:
        return "unknown"
    if estimate["bound"] == "?":
        return NOT_TOLD
    mark = f"{estimate['bound']} " if estimate["bound"] else ""
    value, low, high = (
        _number(x, estimate["bound"]) for x in (estimate["value"], *estimate["interval"])
    )
    interval = f" [{low}, {high}]" if low else ""
    return f"{mark}{value}\u00d7{interval}"


def _number(value: float | None, bound: str) -> str:
    """Two digits, rounded so that a bound stays one."""
    if value is None or math.isinf(value):
        return "" if value is None else INFINITE
    unit = 10.0 ** (math.floor(math.log10(value)) - 1) if value else 1.0
    nearest: Callable[[float], int] = {"": round, ">=": math.floor, "<=": math.ceil}[bound]
    rounded = nearest(round(value / unit, 6)) * unit  # 0.57 / 0.01 is not quite 57
    return f"{rounded:,.0f}" if rounded >= 99.5 else f"{rounded:.2g}"


def task_number(estimate: dict[str, Any]) -> str:
    """From which task on pre-training is cheaper, e.g. ``task 12 at the latest [9, 20]``."""
    value, bound = estimate["value"], estimate["bound"]
    if bound == "?" or (bound == "<=" and math.isinf(value)):
        return NOT_TOLD
    if math.isinf(value):
        return "never"
    low, high = estimate["interval"]
    bounds = "" if low is None else f" [{_task(low)}, {_task(high)}]"
    return f"task {_task(value)}{LATEST[bound]}{bounds}"


def _task(n: float) -> str:
    return "never" if math.isinf(n) else f"{max(1, math.ceil(n)):,}"


# ---- verdicts


def verdict(comparison: dict[str, Any], against: dict[str, Any]) -> dict[str, str]:
    """{verdict, sentence}: whether pre-training paid on these tasks, and from how many it would.

    Args:
        comparison: an arm on a set of tasks in one currency.
        against: what it is compared with there, the ratios with all that came before included.
    """
    currency, rate = comparison["currency"], percent(comparison["threshold"])
    part = len(comparison["tasks"]) < comparison["of"]
    found = _paid(against, comparison["censored"])
    other = f"{priced(currency, against['marginal'], against['censored'])} ({against['arm']})"
    ours = f"{priced(currency, comparison['marginal'], comparison['censored'])} to adapt"
    before = f"{'all ' * part}{bare_price(currency, comparison['upstream'])} spent before"
    on, unit = _on(comparison, against["arm"]), UNITS[currency]
    sentence = f"{found}. In {unit}: {rate} {on} for {ours} and {before}, against {other}."
    even = against["break_even"]
    if even:
        sentence += f" Break-even: {task_number(even)}{_beyond(comparison['knows'], even)}."
    if against["not_on_all"]:
        sentence += f" Not run on all of these tasks: {', '.join(against['not_on_all'])}."
    if against["unknown"]:
        sentence += f" Of unknown price: {', '.join(against['unknown'])}."
    return {"verdict": found, "sentence": sentence}


def _on(comparison: dict[str, Any], rival: str) -> str:
    """The tasks: all of the arm's, or that it is a part of them."""
    tasks, of = len(comparison["tasks"]), comparison["of"]
    if tasks == of:
        return f"on {count(tasks, 'task')}"
    return f"on {tasks} of its {of} tasks, which {rival} was run on too,"


def _beyond(knows: int | None, even: dict[str, Any]) -> str:
    """A prior that is asked for what it knows cannot be asked for more tasks than these."""
    if not knows or even["bound"] == "<=" or not knows < even["value"] < math.inf:
        return ""
    return f", more than the {knows} that it was trained on"


def _paid(against: dict[str, Any], ours_censored: bool) -> str:
    if against["full_ratio"] is None:
        return "Not known whether pre-training paid: what came before has no bill"
    value = against["full_ratio"]["value"]
    low, high = against["full_ratio"]["interval"]
    if ours_censored:
        if against["censored"]:
            return "Cannot be told whether pre-training paid: neither got there"
        return "Pre-training did not pay here: it never got there"
    if against["censored"] and value < 1:
        return "Cannot be told whether pre-training paid: the other never got there, and spent less"
    paid = "Pre-training paid here" if value > 1 else "Pre-training did not pay here"
    if low is None:
        return f"{paid}, by a single run"
    return paid if low > 1 or high < 1 else f"{paid}, though the interval leaves it open"


def describe(content: dict[str, Any]) -> dict[str, Any]:
    """{headline, beside, caveat, tiles}: what the page and the terminal begin with."""
    parts = [
        count(len(content["arms"]), "arm"),
        count(len(content["tasks"]), "task"),
        "success at any step of an episode",
        "prices of training, evaluation not counted",
        "a price is read at the first evaluation that has it: up to one (steps apart) too high",
        "in brackets: 95 % bootstrap intervals over tasks and seeds",
    ]
    if content["missing"]:
        parts.append(f"not run yet: {', '.join(content['missing'])}")
    found = {"headline": headline(content), "beside": beside(content)}
    return found | {"caveat": " · ".join(parts), "tiles": tiles(content)}


def headline(content: dict[str, Any]) -> str:
    """The finding in a sentence or two."""
    shown = main_comparison(content)
    if shown is None:
        return (
            "Nothing has been learned both from scratch and by a prior yet, so pre-training has"
            " no price to be held against."
        )
    comparison, against = shown
    goal = f"{percent(comparison['threshold'])} on {count(len(comparison['tasks']), 'task')}"
    scratch, prior = _label(content, against), _label(content, comparison)
    if comparison["censored"] and against["censored"]:
        who = f"neither learning from scratch ({scratch}) nor a prior ({prior})"
        return f"For {goal}, {who} got there."
    unit, full_ratio = UNITS[comparison["currency"]], times(against["full_ratio"])
    if not comparison["marginal"]:
        return (
            f"For {goal}, learning from scratch ({scratch}) takes {full_ratio} the {unit} of all"
            f" that came before a prior ({prior}), which takes none more. {against['verdict']}."
        )
    return (
        f"For {goal}, learning from scratch ({scratch}) takes {times(against['ratio'])} the {unit}"
        f" of a prior ({prior}); counting all that came before, {full_ratio}. {against['verdict']}."
    )


def beside(content: dict[str, Any]) -> str:
    """What the headline would leave out: the rivals that were given demonstrations too."""
    main = main_comparison(content)
    if main is None:
        return ""
    same = ("arm", "currency", "threshold", "of")
    found = []
    for comparison in content["comparisons"]:
        if any(comparison[key] != main[0][key] for key in same):
            continue
        for other in comparison["against"]:
            if other is not main[1]:
                found.append(_beside(content, comparison, other))
    return " ".join(found)


def _beside(content: dict[str, Any], comparison: dict[str, Any], other: dict[str, Any]) -> str:
    who = f"Against {ACCESS[other['access']]} ({_label(content, other)})"
    if len(comparison["tasks"]) < comparison["of"]:
        who += f", {_on(comparison, other['arm']).rstrip(',')}"
    # With nothing to adapt the other is infinitely dearer, which says nothing.
    ratio = f"{times(other['ratio'])}, and " if comparison["marginal"] else ""
    full_ratio = times(other["full_ratio"])
    return f"{who}: {ratio}{full_ratio} counting all that came before. {other['verdict']}."


def _label(content: dict[str, Any], row: dict[str, Any]) -> str:
    return content["arms"][row["arm"]]["label"]


def _short(arm: str) -> str:
    return arm.replace("_", " ")


def tiles(content: dict[str, Any]) -> list[dict[str, str]]:
    """Up to four key numbers: {value, label, note, arm}; ``arm`` gives the colour."""
    found = []
    for name in ("scratch", "off_policy"):
        if arm := content["arms"].get(name):
            row = _at(arm["reached"]["env_steps"], SHOWN)
            note = f"of {count(arm['tasks'], 'task')} that it was run on"
            value, what = str(row["tasks"]), f"tasks at {percent(SHOWN)}, {_short(name)}"
            found.append({"value": value, "label": what, "note": note, "arm": name})
    if shown := main_comparison(content):
        comparison, against = shown
        unit, arm = UNITS[comparison["currency"]], comparison["arm"]
        for key, what in (("ratio", "the new tasks alone"), ("full_ratio", "with all before")):
            value, _, interval = times(against[key]).partition(" [")
            if key == "ratio" and not comparison["marginal"]:
                continue  # infinitely many times nothing
            note = f"{unit} of {_short(against['arm'])} over those of {_short(arm)}"
            note += f" [{interval}" if interval else ""
            found.append({"value": value, "label": what, "note": note, "arm": arm})
    return found


def main_comparison(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Of the comparisons in simulator steps: one with reward only, on the most tasks, cheapest."""
    pairs = [
        (comparison, against)
        for comparison in content["comparisons"]
        for against in comparison["against"]
        if (comparison["currency"], comparison["threshold"]) == ("env_steps", SHOWN)
    ]
    return min(
        pairs,
        key=lambda p: (
            content["arms"][p[0]["arm"]]["measured"] != "here",
            p[1]["access"] != "reward",
            p[0]["censored"],
            p[0]["known_already"] > 0,
            -len(p[0]["tasks"]),
            p[0]["marginal"],
        ),
        default=None,
    )


# ---- the terminal


def format_tables(content: dict[str, Any]) -> str:
    """The report for a terminal, at one threshold. report.json has all of them."""
    lines = [line for key in ("headline", "beside", "caveat") if (line := content[key])]
    lines += ["", *_arms_table(content)]
    for task_set in content["sets"]:
        lines += ["", *_set_table(task_set, content.get("per_core_s"))]
    lines += ["", *_ratio_table(content)] if content["comparisons"] else []
    lines += ["", *_verdicts(content)]
    here = [name for name, arm in content["arms"].items() if arm["measured"] == "here"]
    for arms in _rows_of(here):
        lines += ["", *_task_table(content, arms)]
    return "\n".join(lines)


def _arms_table(content: dict[str, Any]) -> list[str]:
    """How each arm was measured, and the price by which half of its runs got there."""
    rows = []
    for name, arm in content["arms"].items():
        steps, core = (_at(arm["reached"][currency], SHOWN) for currency in CURRENCIES)
        rows.append(
            [
                name,
                f"{arm['tasks']} of {len(content['tasks'])}",
                "-".join(map(str, arm["seeds"])),
                str(arm["episodes"]),
                bare_price("env_steps", arm["resolution"]["env_steps"]).replace("unknown", "-"),
                f"{steps['tasks']} of {arm['tasks']}",
                *(
                    priced(currency, row["median"], row["censored"])
                    for currency, row in zip(CURRENCIES, (steps, core), strict=True)
                ),
                _restricted(steps),
                arm["note"],
            ]
        )
    head = ["arm", "tasks", "seeds", "episodes", "steps apart", f"tasks at {percent(SHOWN)}",
            "median steps", "median core time", "mean steps, up to", ""]  # fmt: skip
    return table(head, rows)


def _restricted(row: dict[str, Any]) -> str:
    if row["restricted_mean"] is None:
        return "unknown"
    return " of ".join(bare_price("env_steps", row[key]) for key in ("restricted_mean", "bound"))


def _set_table(task_set: dict[str, Any], per_core_s: float | None) -> list[str]:
    """What a mean success over the set cost each arm, all its tasks together."""
    prices = [row for row in task_set["prices"] if row["threshold"] == SHOWN]
    rows, unknown = [], [arm for arms in task_set["unknown"].values() for arm in arms]
    for arm in dict.fromkeys([row["arm"] for row in prices] + unknown):
        of_arm = {row["currency"]: row for row in prices if row["arm"] == arm}
        tasks = [f"{row['tasks']} of {len(task_set['tasks'])}" for row in of_arm.values()]
        cells = [arm, *(tasks[:1] or [""])]
        for currency in CURRENCIES:
            row = of_arm.get(currency)
            if row is None:
                cells += ["unknown"] * 3
                continue
            interval, over = row["interval"], row["censored"]
            bounds = ", ".join(priced(currency, bound) for bound in interval)
            cells += [
                priced(currency, row["marginal"], over),
                "" if interval[0] is None else f"[{bounds}]",
                priced(currency, row["full"], over),
            ]
            if currency == "core_s" and per_core_s is not None:
                cells += [money(row[key], per_core_s, over) for key in ("marginal", "full")]
        rows.append(cells)
    if per_core_s is not None:
        rows = [cells + ["unknown"] * (10 - len(cells)) for cells in rows]
    name = f"{percent(SHOWN)} mean, {task_set['name']}"
    head = [name, "tasks", "steps", "", "with all before", "core time", "", "with all before"]
    head += [] if per_core_s is None else ["money", "with all before"]
    return table(head, rows) if rows else []


def _ratio_table(content: dict[str, Any]) -> list[str]:
    """How many times dearer the cheapest way with the same access is, and what bought that."""
    rows = []
    for comparison in content["comparisons"]:
        if comparison["threshold"] != SHOWN:
            continue
        known = comparison["known_already"]
        tasks = str(len(comparison["tasks"]))
        tasks += f" of {comparison['of']}" if len(comparison["tasks"]) < comparison["of"] else ""
        tasks += f", {known} known" if known else ""
        for against in comparison["against"]:
            is_reward = against["access"] == "reward"
            factor = comparison["demonstrations_factor"] if is_reward else None
            rows.append(
                [
                    comparison["arm"],
                    tasks,
                    UNITS[comparison["currency"]],
                    f"{against['arm']}, {ACCESS[against['access']]}"
                    + ("" if against["same_reward"] else " (dense)"),
                    "takes none more" if comparison["marginal"] == 0 else times(against["ratio"]),
                    times(against["full_ratio"]),
                    times(factor) if factor else "",
                    task_number(against["break_even"]) if against["break_even"] else "unknown",
                ]
            )
    head = ["prior", "tasks", "price in", "against", "marginal", "with all before",
            "of it, by demonstrations", "pays from"]  # fmt: skip
    return table(head, rows)


def _verdicts(content: dict[str, Any]) -> list[str]:
    return [
        f"{comparison['arm']}: {against['sentence']}"
        for comparison in content["comparisons"]
        for against in comparison["against"]
        if comparison["threshold"] == SHOWN
        and content["arms"][comparison["arm"]]["measured"] == "here"
    ]


def _task_table(content: dict[str, Any], arms: Sequence[str]) -> list[str]:
    """Price to the threshold of each task by each arm, mean over seeds: steps, core time."""
    prices = {
        (row["arm"], row["task"], row["currency"]): row
        for row in content["price"]
        if row["threshold"] == SHOWN
    }
    tasks = [t for t in content["tasks"] if any((arm, t, "core_s") in prices for arm in arms)]
    rows = []
    for task in tasks:
        cells = []
        for arm in arms:
            found = [prices.get((arm, task, currency)) for currency in CURRENCIES]
            cells.append(_cell([row for row in found if row]))
        rows.append([task.split("/")[-1], *cells])
    return table([f"price of {percent(SHOWN)}", *arms], rows)


def _cell(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "-"
    over = ">= " if rows[0]["censored"] and rows[0]["marginal"] is not None else ""
    return over + ", ".join(bare_price(row["currency"], row["marginal"]) for row in rows)


def _rows_of(arms: Sequence[str]) -> Iterable[Sequence[str]]:
    return (arms[i : i + ARMS_IN_A_ROW] for i in range(0, len(arms), ARMS_IN_A_ROW))


def _at(rows: Sequence[dict[str, Any]], threshold: float) -> dict[str, Any]:
    return next(row for row in rows if row["threshold"] == threshold)
