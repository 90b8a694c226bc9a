"""Sphinx builds these pages: ``make docs`` writes them to build/docs, with warnings as errors.

Why Sphinx: its reference is the docstrings of what is imported, a broken link is an error, and it is alive. Sphinx 9.2,
myst-parser 5.2 and pydata-sphinx-theme 0.24 are of October and November 2026. MkDocs has had only pre-releases of 2.0
since 1.6.1 (2024), mkdocs-material is in maintenance, its successor Zensical is at 0.1, and the theme Furo has had no
release since December 2025.
"""

from __future__ import annotations

from skipthinking import __version__

project, author, release = "skipthinking", "the authors of skipthinking", __version__
copyright = "the authors of skipthinking, Apache License 2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3  # anchors of headings as GitHub names them: links between pages work in both places
smartquotes = False

# Docstrings are in Google's style and do not repeat types, which the signatures have.
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
autodoc_default_options = {"show-inheritance": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "skipthinking"
html_show_sourcelink = html_copy_source = False
html_theme_options = {"show_prev_next": False, "navbar_center": []}
html_sidebars = {"**": ["globaltoc.html"]}
