"""A template with its style, its script and the policy that lets only that script run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

_STYLES = ("style.css", "interactive.css")


def filled_in(template: str, scripts: Sequence[str], **values: Any) -> str:
    """One page as text.

    Parameters
    ----------
    template : str
        Its file in ``templates``; it gets ``style``, ``script`` and ``script_sha256``.
    scripts : sequence of str
        Files of ``templates`` that make up the script, in order.
    **values
        The template's own.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("featlab", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = f'"use strict";\n(() => {{\n{_source(environment, scripts)}}})();\n'
    return environment.get_template(template).render(
        style=Markup(_source(environment, _STYLES)),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        **values,
    )


def _source(environment: jinja2.Environment, names: Sequence[str]) -> str:
    """The text of some templates, one after the other, not rendered."""
    assert environment.loader is not None
    return "\n".join(environment.loader.get_source(environment, name)[0] for name in names)
