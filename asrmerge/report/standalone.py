"""A chart as a file of its own, with the report's style."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def standalone_svg(chart: Markup) -> str:
    """The SVG file of a chart: drawn in colours for light and dark, its marks' tips shown by the browser."""
    environment = Environment(loader=PackageLoader("asrmerge.report"), autoescape=False, undefined=StrictUndefined)
    style = environment.get_template("chart.css.j2").render() + "svg { background: var(--surface); }\n"
    opening, _, rest = str(chart).partition(">")
    opening = opening.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{opening}><style>\n{style}</style>{rest}\n"
