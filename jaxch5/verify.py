"""`jaxch5 verify PATH`: finds broken and repeated pictures before training does."""

from __future__ import annotations

import sys
from typing import Any

from pydantic import Field
from rich.console import Console

from jaxch5.cli import FAILED, PicturesOptions, run
from jaxch5.errors import DataError
from jaxch5.util.text import counted, print_line, print_list

UNREADABLE = ("picture cannot be read", "pictures cannot be read")
REPEATED = {
    "duplicates": ("picture occurs more than once", "pictures occur more than once"),
    "conflicts": ("picture is in more than one class", "pictures are in more than one class"),
    "leaks": ("picture is in training and validation", "pictures are in training and validation"),
}
NEAR = " as nearly identical copies (a guess; --no-near turns this check off)"
WHICH = "out black, white or in one colour (--data.range says which values are black and white)"
BLANK = (f"picture comes {WHICH}", f"pictures come {WHICH}")


class VerifyOptions(PicturesOptions):
    """Read every picture: find unreadable and duplicate ones, and leaks into validation.

    Other files below the folder are listed, grouped by the reason why they are ignored. The exit
    status is 1 if any problem is found, if training would refuse the split, or if ignored files
    look like pictures. Pictures that come out black, white or in one colour are listed too, since
    their values may have been misinterpreted (--data.range); but they may also be intended, so they
    do not change the exit status. Nearly identical pictures do not change it either, because it is
    only a guess that they are copies.
    """

    near: bool = Field(
        True,
        description="find pictures that differ only in encoding, size, a border or a small crop",
    )


def verify(options: VerifyOptions) -> dict[str, Any]:
    """Prints the problems of the pictures, and returns them with the pictures' references."""
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
        print_line(console, f"not checked for leaks, since the pictures are not split: {refused}")
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
    lines = [(*UNREADABLE, list(found.unreadable.values()))]
    for kind, headlines in REPEATED.items():
        for prefix, repeated, same, how in (
            ("", found, " = ", ""),
            ("near_", found.near, " ~ ", NEAR),
        ):
            groups = getattr(repeated, kind)
            report[prefix + kind] = [[source.references[item] for item in g] for g in groups]
            one, many = (f"{headline}{how}" for headline in headlines)
            lines.append((one, many, [same.join(map(described, items)) for items in groups]))
    lines.append((*BLANK, [f"{described(item)}: {kind}" for item, kind in blank]))
    for reason, paths in passed_over.items():
        one, many = (f"{reason.text(count)}, passed over" for count in (1, 2))
        lines.append((one, many, list(paths)))
    for note in source.notes:
        print_line(console, note)
    for one, many, entries in lines:
        print_list(console, one, many, entries)
    missed = any(reason.suspect for reason in passed_over)
    clean = found.clean and refused is None and not missed
    outcome = "no problems" if clean and not (found.blank or any(found.near)) else "see above"
    if plain := found.not_compared:
        outcome += f"; {plain:,} too small or too plain to compare with others"
    print_line(console, f"{counted(found.count, 'picture')} checked: {outcome}")
    return report if clean else {**report, FAILED: True}


def main() -> int:
    return run(verify, VerifyOptions, "jaxch5 verify")


if __name__ == "__main__":
    sys.exit(main())
