"""One HTML file a run: pictures inside, nothing to load from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from centralslice.data.files import atomic_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font-family: system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
img {{ max-width: 100%; }} td {{ padding: .15rem 1rem .15rem 0; vertical-align: top; }}
td:first-child {{ color: #666; white-space: nowrap; }} pre {{ white-space: pre-wrap; }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def write_report(
    path: Path, title: str, figures: Mapping[str, Figure], facts: Mapping[str, str], notes: Iterable[str]
) -> None:
    """Write the page atomically.

    Parameters
    ----------
    path
        The .html file.
    title
        Heading.
    figures
        Caption to figure.
    facts
        Rows of the table at the top.
    notes
        What the run wants the user to know.
    """
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in facts.items()
    )
    parts = [f"<table>{rows}</table>"]
    parts += [
        f"<h2>{html.escape(caption)}</h2><img alt='{html.escape(caption)}' src='{_embedded(figure)}'>"
        for caption, figure in figures.items()
    ]
    said = [html.escape(note) for note in notes]
    if said:
        parts.append("<h2>Notes</h2><ul><li>" + "</li><li>".join(said) + "</li></ul>")
    with atomic_output(path) as temporary:
        temporary.write_text(_PAGE.format(title=html.escape(title), body="\n".join(parts)), encoding="utf-8")


def _embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
