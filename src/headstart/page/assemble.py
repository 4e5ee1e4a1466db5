"""Assembles pages: one HTML file with its style, scripts and data inside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from headstart.config import to_json


def read(*names: str) -> str:
    """Text files of the package, e.g. ``page/base.css``, one after the other."""
    package = files("headstart")
    return "\n".join(package.joinpath(name).read_text(encoding="utf-8") for name in names)


def assemble(template: str, parts: Mapping[str, str]) -> str:
    """The template with each ``{{name}}`` replaced by its part.

    One pass, so that a placeholder inside a part stays as it is.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def json_for_script(value: Any) -> str:
    """JSON that cannot end the script element it is put in, whatever its strings hold."""
    text = json.dumps(to_json(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
