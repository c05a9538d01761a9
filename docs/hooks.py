"""The pictures in docs/images, which README.md shows too, become part of the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add ``images/``."""
    for path in sorted(Path(__file__).with_name("images").iterdir()):
        files.append(File.generated(config, f"images/{path.name}", abs_src_path=str(path)))
    return files
