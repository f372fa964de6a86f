"""Serves the page of `jaxch5 clean`: sends the suspects to the page, and stores the answers."""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from jaxch5.data.canvases import whole_picture
from jaxch5.data.source import Source
from jaxch5.errors import DataError
from jaxch5.plots.embed import TINY_SIDE
from jaxch5.results.answers import CLASS, KINDS, UNDO, Answer, AnswerLog, Key, by_picture
from jaxch5.util.address import LISTED
from jaxch5.util.files import to_json
from jaxch5.util.loopback import JSON, Reply
from jaxch5.util.text import composed, folded, is_text, printable

# Longest side of a picture in each size, in pixels.
SIDES = {"large": 1024, "small": 256}
# Number of encoded pictures that are cached, which takes about 60 MB.
KEPT = 600
# Seconds for which a browser may cache a picture; a new list of suspects has new addresses.
SECONDS = 3600
LONGEST_CLASS = 200
PAGES = {
    "/": ("clean.html", "text/html; charset=utf-8"),
    "/clean.js": ("clean.js", "text/javascript; charset=utf-8"),
    "/clean.css": ("clean.css", "text/css; charset=utf-8"),
    "/palette.css": ("palette.css", "text/css; charset=utf-8"),
}
# Fields of a suspect that the page gets unchanged.
KNOWN = ("probability", "label_probability", "doubt", "part")
# Fields of a group of near-duplicates: lists with one value for each picture.
TWINS = ("images", "labels", "parts")
# A function that takes an item's index and a class, and draws what supports the class.
Looks = Callable[[int, str], Image.Image]


def read_judged(path: Path) -> dict[str, Any]:
    """Reads the suspects that `jaxch5 suspects` wrote.

    Raises:
        DataError: There is no such file, or it is damaged or was written by another version.
    """
    again = f"create it with jaxch5 suspects {path.parent}"
    try:
        judged = json.loads(path.read_bytes())
        classes = set(judged["classes"])
        named = {one[name] for one in judged["suspects"] for name in ("label", "prediction")}
        if judged["format"] != 1 or not named <= classes:
            raise ValueError("it is from another version, or names classes that it does not list")
        return judged
    except FileNotFoundError:
        if not path.parent.exists():
            raise DataError(f"{path.parent}: there is no such run; {LISTED}") from None
        raise DataError(f"{path}: does not exist; {again}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {again}") from None


class Cleaner:
    """Responds to the requests of the page of `jaxch5 clean`.

    Attributes:
        keys: Path and label of each suspect that is still in the set, most doubtful first.
        stale: Number of suspects that are no longer in the set, or have another label now.
        digest: Hash of the list of suspects; answers from a page that shows another list are
            refused.

    Args:
        title: Title of the page.
        judged: Result of `read_judged`.
        source: Pictures to show.
        items: Index of each picture in `source`, keyed by the picture's path and label.
        log: Log of answers, to which new ones are added.
        finish: Function that writes the corrected labels, and returns what the page then shows.
        looks: Function that draws where the network looks, or a text that says why that is not
            possible.
    """

    def __init__(
        self,
        title: str,
        judged: Mapping[str, Any],
        source: Source,
        items: Mapping[Key, int],
        log: AnswerLog,
        finish: Callable[[], Mapping[str, Any]],
        looks: Looks | str,
    ) -> None:
        self._source, self._log, self._finish, self._looks = source, log, finish, looks
        self._lock = Lock()
        self._classes: dict[str, int] = {}
        self._judged = tuple(judged["classes"])
        # Classes that the person added are included, even those of answers that were undone: a page
        # that was open before the server was restarted goes on using the same numbers.
        for name in (*self._judged, *log.labels):
            self._number(name)
        suspects = [one for one in judged["suspects"] if (one["image"], one["label"]) in items]
        self.keys: list[Key] = [(one["image"], one["label"]) for one in suspects]
        self.stale = len(judged["suspects"]) - len(suspects)
        # Indices keyed by path alone, for the other pictures that are shown beside a suspect.
        self._item = {image: item for (image, _), item in items.items()}
        self._images: dict[str, int] = {}
        groups = defaultdict(list)
        for group in judged.get("near_duplicates") or ():
            for image in group["images"]:
                groups[image].append(group)
        content: dict[str, Any] = {
            "title": printable(title),
            "suspects": [self._shown(one, groups.get(one["image"], ())) for one in suspects],
            "names": [printable(source.references[self._item[image]]) for image in self._images],
            "tiny": TINY_SIDE,
            "no_looks": looks if isinstance(looks, str) else "",
        }
        self._paths = [*self._images]
        said = to_json([content, self._paths, self.keys])
        self.digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        self._content = content | {"digest": self.digest}
        self._picture = lru_cache(KEPT)(self._drawn)

    def respond(self, path: str, posted: Any) -> Reply:
        """Responds to a request: sends a file, suspects or a picture, saves an answer, or finishes.

        Raises:
            DataError: A picture cannot be read or drawn, or an answer is invalid.
            CheckpointError: An answer or the corrected labels cannot be saved.
        """
        path = path.partition("?")[0]
        if posted is None and path in PAGES:
            name, kind = PAGES[path]
            return Reply(files("jaxch5.results").joinpath(name).read_bytes(), kind)
        if posted is None and path == "/suspects":
            with self._lock:
                return _json(self._content | self._state(range(len(self.keys))))
        if posted is None:
            what, _, number = path[1:].partition("/")
            if what in (*SIDES, "looks") and number.isdecimal() and len(number) < 9:
                return self._picture_of(what, int(number))
        elif path in ("/answer", "/finish") and isinstance(posted, dict):
            with self._lock:
                return self._told(posted) if path == "/answer" else _json(self._finish())
        return Reply(b"there is no such page", status=404)

    def _told(self, posted: Mapping[str, Any]) -> Reply:
        if posted.get("digest") != self.digest:
            said = b"not saved: the list of suspects is a new one, which is shown now"
            return Reply(said, status=410)
        if posted.get("seen") != self._log.lines:
            # The page has not seen the latest answers, such as another tab's: it has to load them.
            return _json(self._state(range(len(self.keys))), status=409)
        answer, places = self._meant(posted)
        held = self._log.answers[-1:] if answer.kind == UNDO else []
        self._log.add(answer)
        if held:
            numbers = {key: place for place, key in enumerate(self.keys)}
            places = [numbers[key] for key in held[0].pictures if key in numbers]
        return _json(self._state(places) | {"undone": bool(held)})

    def _meant(self, posted: Mapping[str, Any]) -> tuple[Answer, list[int]]:
        """Returns the answer that was posted, and the indices of the suspects that it is about."""
        kind, places = posted.get("kind"), posted.get("suspects", [])
        known = range(len(self.keys))
        if kind not in KINDS or not all(type(place) is int and place in known for place in places):
            raise DataError("this is not an answer about suspects on the list")
        if kind == UNDO:
            if not self._log.answers:
                raise DataError("there is no answer to undo")
            return Answer(UNDO), []
        if not places:
            raise DataError("an answer has to be about at least one suspect")
        pictures = tuple(self.keys[place] for place in places)
        return Answer(kind, pictures, self._class_of(posted) if kind == CLASS else ""), places

    def _class_of(self, posted: Mapping[str, Any]) -> str:
        if isinstance(new := posted.get("new"), str):
            name = composed(new).strip()
            if not name or len(name) > LONGEST_CLASS or not (name.isprintable() and is_text(name)):
                raise DataError(f"a class name needs 1 to {LONGEST_CLASS} printable characters")
            alike = (known for known in self._offered() if folded(known) == folded(name))
            return next(alike, name)
        number = posted.get("class")
        if type(number) is not int or number not in range(len(self._classes)):
            raise DataError("there is no such class")
        return [*self._classes][number]

    def _offered(self) -> list[str]:
        """Returns the classes of the set and of the answers that were not undone.

        A class whose answer was undone is not among them, so that it can be spelled differently.
        """
        given = (answer.label for answer in self._log.answers if answer.label)
        return [*dict.fromkeys([*self._judged, *given])]

    def _state(self, places: Iterable[int]) -> dict[str, Any]:
        """Returns the log's state and the answers about some suspects; None means no answer."""
        answers = by_picture(self._log.answers)
        found = ((place, answers.get(self.keys[place])) for place in places)
        said = {
            place: answer and [answer.kind, self._number(answer.label) if answer.label else None]
            for place, answer in found
        }
        return {
            "seen": self._log.lines,
            "answers": said,
            "offered": [self._number(name) for name in self._offered()],
            "classes": [printable(name) for name in self._classes],
        }

    def _picture_of(self, what: str, number: int) -> Reply:
        known = self._paths if what in SIDES else self.keys
        if number >= len(known):
            return Reply(b"there is no such picture", status=404)
        kind, content = self._picture(what, number)
        return Reply(content, kind, seconds=SECONDS)

    def _drawn(self, what: str, number: int) -> tuple[str, bytes]:
        if what in SIDES:
            item, side = self._item[self._paths[number]], SIDES[what]
            image = whole_picture(self._source, item, side)
        elif callable(self._looks):
            suspect = self._content["suspects"][number]
            item = self._item[self.keys[number][0]]
            image = self._looks(item, [*self._classes][suspect["prediction"]])
        else:
            raise DataError(self._looks)
        form = "png" if max(image.size) <= TINY_SIDE else "jpeg"
        written = io.BytesIO()
        image.save(written, form, quality=90, subsampling=0)
        return f"image/{form}", written.getvalue()

    def _shown(self, suspect: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]) -> Any:
        """Returns a suspect for the page, with indices in place of its pictures and classes."""
        nearest = suspect.get("nearest") or {}
        # Groups may share pictures: one with two classes may also be divided between the parts.
        twins = {
            twin: {"image": self._place(twin[0]), "label": printable(twin[1]), "part": twin[2]}
            for group in groups
            for twin in zip(*(group[name] for name in TWINS), strict=True)
            if twin[0] != suspect["image"] and twin[0] in self._item
        }
        return {name: suspect.get(name) for name in KNOWN} | {
            "image": self._place(suspect["image"]),
            "label": self._number(suspect["label"]),
            "prediction": self._number(suspect["prediction"]),
            "nearest": {
                name: [self._place(one) for one in nearest.get(name, ()) if one in self._item]
                for name in ("label", "prediction")
            },
            "twins": [*twins.values()],
        }

    def _place(self, image: str) -> int:
        return self._images.setdefault(image, len(self._images))

    def _number(self, name: str) -> int:
        return self._classes.setdefault(name, len(self._classes))


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(to_json(value).encode(), JSON, status)
