"""What the site needs besides its pages: pictures, and docstrings' cross-references as code."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add ``images/``, which README.md shows too."""
    for path in sorted(Path(__file__).with_name("images").iterdir()):
        files.append(File.generated(config, f"images/{path.name}", abs_src_path=str(path)))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """``:func:`name``` of a docstring is ``name`` here, as Markdown knows no such roles."""
    return re.sub(r":(?:mod|class|func|meth|attr):<code>~?", "<code>", html)
