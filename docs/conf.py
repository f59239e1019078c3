"""The site: sphinx-build -W docs build/site. Docstrings are numpydoc, pages are Markdown."""

import latex2mathml.converter
from docutils import nodes

import lfm_np

project = "lfm_np"
author = "the lfm_np authors"
copyright = author
version = release = lfm_np.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
]
exclude_patterns = ["build"]
default_role = "py:obj"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more: shapes and meanings
autodoc_preserve_defaults = True
numpydoc_show_class_members = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook comes with its outputs; docs/run_notebook.py makes them

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"lfm_np {version}"
html_math_renderer = "mathml"  # formulas need no script and no network


def _math(writer, node):
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    writer.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(_math, None), block_renderers=(_math, None))
