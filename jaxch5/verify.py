"""`jaxch5 verify PATH`: finds broken and repeated pictures before training does."""

from __future__ import annotations

import sys
from typing import Any

from pydantic import Field
from rich.console import Console

from jaxch5.cli import FAILED, PicturesOptions, print_list, run
from jaxch5.errors import DataError
from jaxch5.util.text import counted, print_line

REPEATED = {
    "duplicates": "are there more than once",
    "conflicts": "have more than one class",
    "leaks": "are in training and in validation",
}
NEAR = "are nearly one picture (a guess, which --no-near leaves out) and"
BLANK = "come out black, white or in one colour (--data.range says which values are which)"


class VerifyOptions(PicturesOptions):
    """Read every picture: which cannot be read, are there twice, or are in training and validation.

    What is below the folder and is no item is counted, by reason. Exit status 1 if there are any of
    the former, if training would refuse the split, or if what is passed over looks like pictures.
    Pictures that come out black, white or in one colour are listed too, since their values may be
    taken for others (--data.range); they may be meant, and leave the status as it is. So do
    pictures that are nearly the same, which is a guess.
    """

    near: bool = Field(
        True,
        description="look for pictures that differ by encoding, size, a border or a small crop",
    )


def verify(options: VerifyOptions) -> dict[str, Any]:
    """Prints what is wrong with the pictures; returns it by reference."""
    from jaxch5.config.building import checked_source, split_of
    from jaxch5.data.split import divide
    from jaxch5.data.verify import find_problems

    config = options.settings()
    console = options.console()
    source = checked_source(config)
    refused = train = valid = None
    try:
        train, valid = divide(source, split_of(config.data, source))
    except DataError as error:
        refused = str(error)
        print_line(console, f"not split, so no leaks were looked for: {refused}")
    found = find_problems(source, train, valid, Console(stderr=True), options.near)

    def described(item: int) -> str:
        return f"{source.references[item]} ({source.classes[source.labels[item]]})"

    passed_over, blank = source.passed_over, found.blank.items()
    report: dict[str, Any] = {
        "pictures": found.count,
        "not_split": refused,
        "unreadable": [
            {"reference": source.references[item], "reason": reason}
            for item, reason in found.unreadable.items()
        ],
        "not_compared": found.not_compared,
        "blank": {source.references[item]: kind for item, kind in blank},
        "passed_over": {reason.text(): list(paths) for reason, paths in passed_over.items()},
    }
    lines = {"cannot be read": list(found.unreadable.values())}
    for kind, headline in REPEATED.items():
        for prefix, repeated, same in (("", found, " = "), ("near_", found.near, " ~ ")):
            groups = getattr(repeated, kind)
            report[prefix + kind] = [[source.references[item] for item in g] for g in groups]
            title = f"{NEAR} {headline}" if prefix else headline
            lines[title] = [same.join(map(described, items)) for items in groups]
    lines[BLANK] = [f"{described(item)}: {kind}" for item, kind in blank]
    for reason, paths in passed_over.items():
        lines[f"{reason.text(len(paths))}, passed over"] = list(paths)
    for note in source.notes:
        print_line(console, note)
    for headline, entries in lines.items():
        print_list(console, headline, entries)
    missed = any(reason.suspect for reason in passed_over)
    clean = found.clean and refused is None and not missed
    outcome = "no problems" if clean and not (found.blank or any(found.near)) else "see above"
    if plain := found.not_compared:
        outcome += f"; {plain:,} too small or too plain to be compared with others"
    print_line(console, f"{counted(found.count, 'picture')} read: {outcome}")
    return report if clean else {**report, FAILED: True}


def main() -> int:
    return run(verify, VerifyOptions, "jaxch5 verify")


if __name__ == "__main__":
    sys.exit(main())
