"""Sphinx: ``python -m sphinx -W --keep-going -b html docs build/docs`` from the root.

Nothing is fetched: no intersphinx, formulas as MathML, the gallery on data that scikit-learn
ships.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import varpro_nn

project = "varpro_nn"
author = "the authors of varpro_nn"
project_copyright = author
release = version = varpro_nn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "mathml",
]
exclude_patterns = ["gallery", "README.md", "_ext", "_templates"]
templates_path = ["_templates"]
default_role = None
nitpicky = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc sections say types
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": ["gallery"],
    "gallery_dirs": ["auto_gallery"],
    "filename_pattern": r"plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "download_all_examples": False,
    "min_reported_time": 1000,
    "plot_gallery": "True",
}

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "varpro_nn"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {"index": [], "start": [], "mathematics": [], "changes": []}
html_theme_options = {
    "logo": {"text": "varpro_nn"},
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["sphinx-version"],
    "footer_end": [],
    "show_toc_level": 2,
    "navigation_with_keys": False,
}


def _relink(app, relative_path, parent_docname, content):
    """Turn links of the README and its like, written for the root, into links of these pages."""
    for written, here in (
        ("](docs/", "]("),
        ("](experiments/README.md)", "](experiments.md)"),
        ("](README.md)", "](measured.md)"),
        ("](CONTRIBUTING.md)", "](contributing.md)"),
    ):
        content[0] = content[0].replace(written, here)


def _escape(app, what, name, obj, options, lines):
    """Keep the star of a shape, (n, *image_shape), from being read as emphasis."""
    lines[:] = [line.replace(", *image_shape", r", \*image_shape") for line in lines]


def _skip(app, what, name, obj, skip, options):
    """Leave out what estimators inherit from scikit-learn: its texts point to its own pages."""
    return skip or str(getattr(obj, "__module__", "")).startswith("sklearn")


def setup(app):
    """Connect what is above."""
    app.connect("include-read", _relink)
    app.connect("autodoc-process-docstring", _escape)
    app.connect("autodoc-skip-member", _skip)
