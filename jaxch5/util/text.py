"""Makes and prints readable text, in which untrusted names of files or classes can do no harm."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import fields, is_dataclass
from functools import partial, wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

from rich.console import Console

from jaxch5.errors import DataError

# Maximum number of a list's entries that are shown.
SHOWN = 20
# Shown in tables and reports in place of a value that is not a number.
NO_NUMBER = "\N{EN DASH}"

P = ParamSpec("P")
R = TypeVar("R")
# A spinner's text, which is shown once for each combination of picture size and batch size.
COMPILING = "compiling once for these sizes"

if TYPE_CHECKING:
    from rich.progress import Progress


def printable(text: str) -> str:
    """Returns text as one line that hides nothing: characters that do not print become escapes.

    Names of files and classes may hold line feeds, codes that a terminal obeys, and bytes that are
    not text.

    Example:
        >>> printable("café 1.jpg"), printable("a\\nb\\x1b[2J\\udcff.jpg")
        ('café 1.jpg', 'a\\\\nb\\\\x1b[2J\\\\udcff.jpg')
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def counted(count: int, one: str, many: str | None = None) -> str:
    """Returns a count with its noun in the matching form.

    Args:
        count: Number of things.
        one: Noun for one thing, with any other words of a sentence that depend on the count.
        many: The same words in the form for any other count; None adds an s to `one`.

    Example:
        >>> counted(1, "picture"), counted(1200, "picture"), counted(0, "class", "classes")
        ('1 picture', '1,200 pictures', '0 classes')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def percent(share: float, digits: int = 1) -> str:
    """Writes a share as a percentage.

    Example:
        >>> percent(0.0625), percent(0.4, 0)
        ('6.2 %', '40 %')
    """
    return f"{100 * share:.{digits}f} %"


def name_of(function: Any) -> str:
    """Returns the name of a function, or of the function that a `partial` calls.

    Example:
        >>> name_of(partial(max, 1))
        'max'
    """
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def described(value: Any) -> str:
    """Returns a text that is the same in every process for values that mean the same.

    Functions and objects without a text of their own are given by their names alone, so the text
    does not tell two closures of one function apart. A `partial` or a dataclass is given as a call,
    without the arguments that have their default values.

    Example:
        >>> def scale(x, by=1.0, beyond=()):
        ...     return by * x
        >>> described(partial(scale, by=1)), described(partial(scale, by=2.0, beyond=(3, 4)))
        ('scale', 'scale(beyond=[3, 4], by=2)')
    """
    if isinstance(value, partial):
        return _call(value.func, value.args, value.keywords)
    if is_dataclass(value) and not isinstance(value, type):
        return _call(type(value), (), {one.name: getattr(value, one.name) for one in fields(value)})
    if callable(value) or type(value).__repr__ is object.__repr__:
        return name_of(value)
    if hasattr(value, "tolist"):
        # An array, or a number of NumPy or JAX.
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        texts = [*map(described, value)]
        return f"[{', '.join(sorted(texts) if isinstance(value, set | frozenset) else texts)}]"
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _call(function: Any, args: Iterable[Any], keywords: Mapping[str, Any]) -> str:
    usual = {}
    # Functions written in C may have no signature.
    with suppress(ValueError):
        usual = {name: one.default for name, one in signature(function).parameters.items()}
    texts = [(name, described(one)) for name, one in sorted(keywords.items())]
    named = [
        f"{name}={text}"
        for name, text in texts
        if name not in usual or described(usual[name]) != text
    ]
    given = ", ".join([*map(described, args), *named])
    return f"{described(function)}({given})" if given else described(function)


class _Shown(NamedTuple):
    function: Callable[..., Any]
    text: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return self.text


def shown_as_call(make: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function so that the functions it returns are shown as the call that made them.

    Example:
        >>> @shown_as_call
        ... def adds(number, times=1):
        ...     return lambda other: other + times * number
        >>> adds(2), adds(2)(3)
        (adds(number=2, times=1), 5)
    """

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature(make).bind(*args, **kwargs)
        bound.apply_defaults()
        said = ", ".join(f"{name}={value!r}" for name, value in bound.arguments.items())
        return cast(R, _Shown(cast(Any, make(*args, **kwargs)), f"{make.__name__}({said})"))

    return made


def is_text(name: str) -> bool:
    """Checks whether a name is free of surrogates, which stand for bytes that are not UTF-8."""
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def composed(name: str) -> str:
    """Returns a name in the form in which names are compared and sorted.

    File systems differ in whether an umlaut is one character or two.

    Example:
        >>> composed("u\u0308ber") == "über"
        True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """Returns a name in the form in which names are compared if case does not matter.

    Example:
        >>> folded("U\u0308BER") == folded("über")
        True
    """
    return composed(name).casefold()


def same_names(ones: Iterable[str], others: Iterable[str]) -> bool:
    """Checks whether names are the same, in the same order, however umlauts in them are stored."""
    return [*map(composed, ones)] == [*map(composed, others)]


def names_in_order(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of classes, after checking that the order of the names numbers the classes.

    Raises:
        DataError: The names are in a set or a mapping, whose order does not number the classes, or
            there is a single string instead of several names.

    Example:
        >>> names_in_order({"dog", "cat"})
        Traceback (most recent call last):
        jaxch5.errors.DataError: classes: set does not number the classes; give a list of names in \
the order of their numbers, such as sorted(names)
    """
    if isinstance(classes, str | bytes):
        raise DataError(f"classes: {classes!r} is one name; give a list of names")
    # Arrays and columns of other libraries are not a `Sequence`, but can be indexed. The order of a
    # set changes from process to process, and a mapping may give numbers other than its order.
    if isinstance(classes, Mapping) or not hasattr(classes, "__getitem__"):
        raise DataError(
            f"classes: {type(classes).__name__} does not number the classes; give a list of names "
            "in the order of their numbers, such as sorted(names)"
        )
    return tuple(classes)


def plain_console(stderr: bool = False) -> Console:
    """Makes a console whose lines are plain text in a notebook too.

    In a notebook, rich shows each line as an HTML page of its own. If rich is told only that this
    is not a notebook, it assumes a terminal, because the kernel sets `FORCE_COLOR`, and then prints
    codes that move a terminal's cursor.

    Args:
        stderr: Whether to write to standard error instead of standard output.
    """
    console = Console(stderr=stderr)
    if not console.is_jupyter:
        return console
    return Console(stderr=stderr, force_jupyter=False, force_terminal=False)


def has_bars(console: Console) -> bool:
    """Checks whether a console can draw and erase a bar, which files and dumb terminals cannot."""
    return console.is_terminal and not console.is_dumb_terminal


def progress_bar(console: Console | None = None) -> Progress:
    """Makes a progress bar that is erased at the end, and not drawn if `has_bars` is False.

    Args:
        console: Console to draw the bar on; None means standard error.
    """
    from rich.progress import Progress

    console = console or plain_console(stderr=True)
    return Progress(console=console, transient=True, disable=not has_bars(console))


def working(console: Console, on: str) -> AbstractContextManager[Any]:
    """Returns a context in which a terminal shows a spinner and what is being done."""
    return console.status(on) if has_bars(console) else nullcontext()


def print_line(console: Console, line: str) -> None:
    """Prints one line literally: names are not markup, and nothing in them moves the cursor."""
    console.print(printable(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_list(console: Console, one: str, many: str, entries: Sequence[str]) -> None:
    """Prints how many entries there are, and the first `SHOWN` of them; nothing if there are none.

    Args:
        console: Console to print on.
        one: Words that follow the count of a single entry, such as "picture cannot be read".
        many: Words that follow any other count, such as "pictures cannot be read".
        entries: Lines to print, one for each entry.
    """
    if not entries:
        return
    print_line(console, f"{counted(len(entries), one, many)}:")
    for entry in entries[:SHOWN]:
        print_line(console, f"  {entry}")
    if len(entries) > SHOWN:
        print_line(console, f"  and {len(entries) - SHOWN:,} more (--json lists them all)")


def print_row(console: Console, row: str, head: str) -> None:
    """Prints a line of a table, without the columns that a narrow terminal has no room for.

    Args:
        console: Console to print on; one that is not a terminal gets all columns.
        row: Line to print, aligned with the head.
        head: First line of the table, which names the columns. To print this line itself, pass it
            as `row` too.
    """
    if console.is_terminal:
        ends = [name.end() for name in re.finditer(r"\S+", head)]
        if ends[-1] > console.width:
            row = row[: max((end for end in ends if end <= console.width), default=ends[0])]
    print_line(console, row)
