"""Executed notebooks as web pages beside their figures: results/SCALE/notebook/NAME.html."""

import copy
import html
import os
import re
from pathlib import Path
from typing import Any

from lab import cli, files
from report.captions import caption

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<script type="text/x-mathjax-config">
MathJax.Hub.Config({{tex2jax: {{inlineMath: [["$", "$"]], processEscapes: true}}}});
</script>
<script src="{mathjax}"></script>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 0 auto; padding: 0 1rem 4rem }}
pre {{ overflow: auto; font-size: .85rem; padding: .5rem; background: #8882 }}
img {{ max-width: 100%; height: auto; background: #fff }}
.anchor-link {{ display: none }}
</style>
</head>
<body>
"""


def write(folder: Path, name: str, notebook: Any) -> None:
    """Write a notebook's page, whole or not at all.

    Args:
        folder: results/SCALE.
        name: the notebook's, without its suffix.
        notebook: executed, as nbformat has it.
    """
    path, text = folder / "notebook" / f"{name}.html", page(folder, notebook)
    files.write_whole(path, lambda file: file.write(text.encode()))


def page(folder: Path, notebook: Any) -> str:
    """The page's text: pictures that lie in FOLDER/figures are shown from there."""
    from nbconvert import HTMLExporter

    shown = copy.deepcopy(notebook)
    for cell in shown.cells:
        for output in cell.get("outputs", ()):
            path = folder / "figures" / f"{output.get('metadata', {}).get('picture')}.png"
            if path.exists():
                alt = html.escape(caption(path))
                output.data = {"text/html": f'<img src="../figures/{path.name}" alt="{alt}">'}
    exporter = HTMLExporter(
        template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True
    )
    body, _ = exporter.from_notebook_node(shown)
    up = Path(os.path.relpath(cli.ROOT, (folder / "notebook").resolve())).as_posix()
    body = re.sub(r'href="\.\./', f'href="{up}/', body)
    title = html.escape(notebook.cells[0].source.splitlines()[0].lstrip("# "))
    return HEAD.format(title=title, mathjax=exporter.mathjax_url) + body + "\n</body>\n</html>\n"
