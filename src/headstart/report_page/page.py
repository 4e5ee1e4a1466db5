"""Assembles the report's page: one HTML file with its style, script and data inside."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from headstart.page.assemble import assemble, json_for_script, read

SCRIPTS = {
    "run": ("page/scene", *(f"report_page/{n}" for n in ("price", "replay", "sections"))),
    "price": ("report_page/price_sections",),
}
"""What draws the sections of a report on runs, and of one on results of arms."""


def build_page(
    title: str, headline: str, caveat: str, data: dict[str, Any], kind: str = "run"
) -> str:
    """The page as text. It needs no network and no other file.

    Args:
        title, headline, caveat: plain text, escaped here.
        data: JSON values that the scripts draw from.
        kind: of the report: "run" or "price".
    """
    scripts = ("page/elements", "report_page/charts", *SCRIPTS[kind])
    parts = {
        "title": html.escape(title),
        "headline": html.escape(headline).replace(" %", "&nbsp;%"),
        "caveat": html.escape(caveat).replace(" %", "&nbsp;%"),
        "sections": read(f"report_page/{kind}_sections.html"),
        "style": read("page/base.css", "report_page/style.css"),
        "script": read(*(f"{name}.js" for name in scripts)),
        "data": json_for_script(data),
    }
    return assemble(read("report_page/template.html"), parts)


def replay_tracks(replays: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The replays as tracks of points in metres, ready to be drawn.

    Channels that are zero throughout belong to nothing in the scene and are left out. A replay of
    a robot without a ``hand`` cannot be drawn and is left out.
    """
    drawn = []
    for replay in replays:
        run = _tracks(replay["channels"], replay["obs"])
        if run is not None:
            shown = replay.get("demonstration_obs")
            demonstration = _tracks(replay["channels"], shown) if shown else None
            about = {key: replay[key] for key in ("title", "arm", "task", "success")}
            drawn.append(about | {"run": run, "demonstration": demonstration})
    return drawn


def _tracks(channels: Sequence[str], obs: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """{hand, objects, goal: (T, 3) points, opening: (T,)} of one episode."""
    column = {name: i for i, name in enumerate(channels)}

    def points(name: str) -> list[list[float]] | None:
        axes = [column.get(f"{name}/{axis}") for axis in "xyz"]
        if None in axes or not any(step[i] for step in obs for i in axes if i is not None):
            return None
        return [[round(step[i], 4) for i in axes if i is not None] for step in obs]

    hand = points("hand")
    if hand is None:
        return None
    objects = [track for track in map(points, ("object/1", "object/2")) if track]
    grip = column.get("gripper/opening")
    opening = [round(step[grip], 3) if grip is not None else 1.0 for step in obs]
    return {"hand": hand, "opening": opening, "objects": objects, "goal": points("goal")}
