"""What the site needs besides the pages: README.md as its first page, and no links to files that are not on it."""

import re
from pathlib import Path

from mkdocs.structure.files import File

README = Path(__file__).parent.parent / "README.md"


def on_files(files, config):
    """The first page is README.md, whose links begin at the repository."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](").replace('="docs/', '="')
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to the repository's other files become their text."""

    def kept(match: re.Match) -> str:
        text, target = match[1], match[2].partition("#")[0]
        outside = target.startswith("../") and not page.file.src_uri.startswith("reference/")
        return text if outside or target in ("CONTRIBUTING.md", "LICENSE", "CHANGELOG.md") else match[0]

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", kept, markdown)
