"""Gathers the output of several benchmarks, run with --json, into a JSON file and a Markdown table.

    python benchmarks/collect.py FOLDER

FOLDER contains one file per benchmark, NAME.json. results.json and results.md are written to the
same folder. A benchmark is listed as failed if its file contains no JSON document.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from common import lines_of

RESULTS = "results"


def collect(folder: Path) -> None:
    """Writes results.json and results.md."""
    documents: dict[str, dict] = {}
    for file in sorted(folder.glob("*.json")):
        if file.stem != RESULTS:
            try:
                documents[file.stem] = json.loads(file.read_text(encoding="utf-8"))
            except json.JSONDecodeError:
                documents[file.stem] = {"failed": "see the log"}
    text = json.dumps(documents, indent=1)
    (folder / f"{RESULTS}.json").write_text(text + "\n", encoding="utf-8")
    lines = ["| benchmark | | |", "| --- | --- | --- |"]
    for name, document in documents.items():
        for line in lines_of(document):
            label, _, value = line.partition(": ")
            lines.append(f"| {name} | {label} | {value.replace('|', '/')} |")
    (folder / f"{RESULTS}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    collect(Path(sys.argv[1]))
