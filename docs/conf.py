"""Settings of the documentation site. `bash docs/build` builds it; no network is needed."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # the checkout that is being documented, and docs/generate

from generate import api, commands, docstrings, examples, methods, settings  # noqa: E402

import sds3d  # noqa: E402

project = "sds3d"
author = "the sds3d authors"
copyright = "the sds3d authors, Apache-2.0"
release = version = sds3d.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "generate", "**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = "sds3d"
html_theme_options = {"light_css_variables": {"code-font-size": "75%"}, "dark_css_variables": {"code-font-size": "75%"}}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/test_examples.py runs the notebooks

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries = False
suppress_warnings = ["ref.python"]  # two rooms may have a class of one name: a type in a signature links to the first
add_module_names = False

for write in (api.write_pages, commands.write_page, settings.write_page, examples.write_pages, methods.write_pages):
    write(HERE)


def setup(app: object) -> None:
    """Connects the hook that reads this project's docstrings."""
    docstrings.connect(app)
