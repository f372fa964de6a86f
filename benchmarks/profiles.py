"""Measures how long presizing takes without a colour profile, with sRGB's, and with Adobe RGB's.

The photographs are the same each time; only the profile that is embedded in the files differs. The
figures called "lcms" are for Adobe RGB that is converted by Pillow's ImageCms, which jaxch5 uses
for profiles that consist of more than curves and a matrix.

    python benchmarks/profiles.py --path FOLDER
"""

from __future__ import annotations

import io
from pathlib import Path

from common import arguments_of, find_files, in_turn, ratio, seconds_of, spread, tell

PICTURES = 60


def with_profile(content: bytes, profile: bytes | None) -> bytes:
    """Returns the same JPEG file with the given profile, or with none."""
    from PIL import Image

    file = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.save(file, "JPEG", quality="keep", icc_profile=profile)
    return file.getvalue()


def main() -> None:
    parser = arguments_of(__doc__, turns=7, device=False, path=True)
    parser.add_argument("--presize", type=int, default=192, help="length of short sides, pixels")
    arguments = parser.parse_args()
    from PIL import Image, ImageCms

    from jaxch5.data.decode import decode_stored
    from jaxch5.data.image import presize
    from jaxch5.data.picture import presized
    from jaxch5.data.profiles import adobe_rgb

    files = find_files(arguments.path)
    files = files[:: max(1, len(files) // PICTURES)][:PICTURES]
    contents = [Path(file).read_bytes() for file in files]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kinds = {"none": None, "sRGB": srgb, "Adobe RGB": adobe_rgb()}
    sets = {
        name: [with_profile(content, profile) for content in contents]
        for name, profile in kinds.items()
    }
    screen, adobe = ImageCms.createProfile("sRGB"), ImageCms.getOpenProfile(io.BytesIO(adobe_rgb()))
    transform = ImageCms.buildTransform(adobe, screen, "RGB", "RGB")

    def by_lcms() -> None:
        for content in sets["none"]:
            pixels = decode_stored(content, min_side=arguments.presize).pixels
            transform.apply(Image.fromarray(presize(pixels, arguments.presize)[0]))

    def decoded(name: str) -> float:
        work = [lambda one=one: presized(one, arguments.presize) for one in sets[name]]
        return seconds_of(lambda: [each() for each in work]) * 1e3 / len(work)

    sides = {name: (lambda name=name: decoded(name)) for name in kinds}
    sides["lcms"] = lambda: seconds_of(by_lcms) * 1e3 / len(contents)
    figures = in_turn(sides, arguments.turns)
    result = {
        "pictures": len(contents),
        "milliseconds_a_picture": {name: spread(values) for name, values in figures.items()},
        "over_none": {name: ratio(values, figures["none"]) for name, values in figures.items()},
    }
    tell(result, arguments.json)


if __name__ == "__main__":
    main()
