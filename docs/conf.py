"""Sphinx: MyST pages, the furo theme, and tables of settings that come from the Settings classes themselves."""

import sys
from importlib import import_module
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import tumble

project = "tumble"
author = "The tumble developers"
copyright = "2026, The tumble developers"
version = release = tumble.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "tumble"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
nitpicky = False


class SettingsTable(Directive):
    """A table of the fields of a Settings class: {settings} module:Class."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Name, type, default and meaning of every field."""
        module, name = self.arguments[0].split(":")
        rows = getattr(import_module(module), name).describe()
        group = nodes.tgroup(cols=4)
        group += [nodes.colspec(colwidth=width) for width in (22, 22, 16, 40)]
        head = nodes.thead()
        head += table_row(["key", "type", "default", "meaning"])
        body = nodes.tbody()
        for row in rows:
            body += table_row([nodes.literal(text=row.name), row.type, row.default, row.description])
        group += [head, body]
        table = nodes.table()
        table += group
        return [table]


def table_row(cells: list[str | nodes.Node]) -> nodes.row:
    """One row of a table."""
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += nodes.paragraph("", "", nodes.Text(cell) if isinstance(cell, str) else cell)
        row += entry
    return row


def setup(app) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("settings", SettingsTable)
    return {"parallel_read_safe": True}
