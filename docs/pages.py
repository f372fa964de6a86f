"""Builds a page from each notebook, and the home page from the beginning of the README."""

import base64
import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> None:
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, figures = page_of(json.loads(notebook.read_text(encoding="utf-8")), notebook.stem)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, figure in figures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=figure))


def page_of(notebook: dict, name: str) -> tuple[str, dict[str, bytes]]:
    """Returns a notebook's page in Markdown, and its figures by their file names."""
    parts, figures = [], {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text = to_site(text).replace("](../docs/", "](../")
            # Jupyter's anchors keep capitals; the site's are lower case.
            text = re.sub(r"\]\(#[^)]*", lambda link: link[0].lower(), text)
            parts.append(text.replace("<details>", '<details markdown="1">'))
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if figure := data.get("image/png"):
                file = f"{name}_{len(figures)}.png"
                figures[file] = base64.b64decode("".join(figure))
                parts.append(f"![What these lines draw]({file})")
            elif said := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"``` {{ .text .output .no-copy }}\n{said}\n```")
    return "\n\n".join(parts), figures


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    markdown = to_site(markdown)
    if not page.is_homepage:
        return markdown
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    beginning, _, _ = readme.partition("<!-- The site's first page ends here. -->")
    return to_site(beginning.replace("](docs/", "](")) + markdown


def to_site(markdown: str) -> str:
    """Makes links to notebooks lead to their pages, which are in a folder beside the guides."""
    text = re.sub(r"\]\(([\w/.]+)\.ipynb", r"](\1.md", markdown)
    return text.replace("](../notebooks/", "](notebooks/")
