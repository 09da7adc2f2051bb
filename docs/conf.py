"""Settings of the documentation; built with ``python -m sphinx -W docs docs/_build/html``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import xchunk

project = "xchunk"
author = "The xchunk developers"
copyright = "The xchunk developers, Apache-2.0"
version = release = xchunk.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# A name in single backticks is a link where there is something to link to.
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The pages' code is run at each build, in folders of its own; an error fails the build. Commands
# are those of the same environment, and their output is plain text of 80 columns.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ |= {"TERM": "dumb", "COLUMNS": "80", "NO_COLOR": "1"}
os.environ["XCHUNK_DOCS"] = str(Path(__file__).parent)  # where pages find their scripts

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it in words
autodoc_default_options = {"show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "xchunk"
html_static_path = ["_static"]
html_css_files = ["xchunk.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
