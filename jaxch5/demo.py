"""`jaxch5 demo RUN`: serves a page that classifies pictures dropped on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import Options, run
from jaxch5.errors import DataError, Jaxch5Error
from jaxch5.predict import most_likely
from jaxch5.util.libraries import variable
from jaxch5.util.loopback import HOST, NAMES, listening
from jaxch5.util.text import counted, percent, printable

if TYPE_CHECKING:
    from jaxch5.data.picture import Picture
    from jaxch5.results.predictor import Predictor

# Makes the browser contact only this server, whatever Gradio's page requests.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
SHOWN = 10
# Height of the picture on the page, pixels.
HEIGHT = 360
NO_ANSWER, NONE_OF_THESE, HOW_READ = "No answer", "None of these?", "How it was read"
LESS = "less than the others together"
# A probability below this is less than that of all other classes together.
UNSURE = 0.5
EXAMPLES_ARE = "Pictures that the classifier was not trained on"
# Maximum numbers of classes that are named and of example pictures that are shown.
CLASSES, EXAMPLES = 40, 8
JPEG = b"\xff\xd8\xff"
# Longest side of an example picture that is not a JPEG file, pixels.
LARGEST_EXAMPLE = 1024
LOOKED = "Where the network looks (bright)"
# Seconds between deletions of dropped pictures, and the age in seconds at which they are deleted.
DELETE_EVERY, DELETE_AFTER = 60, 600
# How long the shutdown waits for connections to close; a browser's tab would keep one open.
CLOSING_SECONDS = 1

# What the page shows: probabilities of the likely classes, and a message; either may be empty.
Answer = tuple[dict[str, float], str]


class DemoOptions(Options):
    """Serve a page, for this machine only, that classifies pictures dropped on it."""

    run: CliPositionalArg[Path] = Field(description="run directory, or a learner's file")
    port: int = Field(7860, ge=0, le=65535, description="port of the page; 0 picks a free one")


def demo(options: DemoOptions) -> dict[str, Any]:
    """Serves the page until it is interrupted.

    Raises:
        Jaxch5Error: The port is taken, a package is not installed, or the run cannot be loaded.
    """
    with ExitStack() as stack:
        server = stack.enter_context(listening(options.port))
        try:
            import gradio  # noqa: F401
            import uvicorn
        except ImportError:
            raise Jaxch5Error(
                "the page needs Gradio: python -m pip install -e '.[demo]' in jaxch5's folder"
            ) from None
        from jaxch5.results.predictor import load_learner
        from jaxch5.training.process import prepare_process

        prepare_process()
        predictor = load_learner(options.run, options.architecture(), options.task())
        predictor = predictor.reading(**options.reading())
        # Compiles the network now, so that the first dropped picture need not wait for it.
        black = np.zeros((predictor.about.presize, predictor.about.presize, 3), np.uint8)
        predictor.predict(black)
        look(predictor, black)
        folder = stack.enter_context(TemporaryDirectory())
        # Gradio copies whatever is dropped or clicked to this folder, which is deleted at the end.
        stack.callback(_set, "GRADIO_TEMP_DIR", variable("GRADIO_TEMP_DIR"))
        _set("GRADIO_TEMP_DIR", folder)
        app = page(
            options.run.name,
            partial(answer, predictor),
            partial(look, predictor),
            known(options.run, predictor, scored=options.task() is None),
            examples(options.run, Path(folder)),
        )
        config = uvicorn.Config(
            app, log_level="critical", timeout_graceful_shutdown=CLOSING_SECONDS, ws="none"
        )
        print(
            printable(f"{options.run}: http://{HOST}:{server.getsockname()[1]}/ (Ctrl-C ends it)"),
            file=sys.stderr if options.json_output else sys.stdout,
            flush=True,
        )
        page_server = uvicorn.Server(config)
        page_server.run(sockets=[server])
        # Once started, the server ends only on a signal. It should raise that signal again, but
        # under load it has been seen not to do so.
        if page_server.started:
            raise KeyboardInterrupt
    return {}


def answer(predictor: Predictor, path: str | None) -> Answer:
    """Classifies the picture in a file; without a file, the answer is empty.

    Returns:
        The probabilities of the likeliest classes, most likely first, and a message. If the first
        class is less probable than all others together, the message says so. If the picture has
        more than 8 bits and no range was set, the message also says which values were taken for
        black and white. If there is no answer, there are no probabilities, and the message says
        why.
    """
    if path is None:
        return {}, ""
    try:
        content = Path(path).read_bytes()
        predictor, words = _reading(predictor, content)
        prediction = predictor.predict(content)
    except (DataError, OSError) as error:
        # What follows the semicolon is advice for training.
        return {}, str(error).partition(";")[0]
    likely = dict(most_likely(prediction, predictor.classes, SHOWN))
    (label, share), *_ = likely.items()
    has, value = f"{label}, the most probable class, has", percent(share, 0)
    if prediction.index == len(predictor.classes):
        return {}, f"{prediction.label}: {has} only {value}"
    # Unless "none of these" is an answer, probabilities add up to 1.
    unsure = share < UNSURE and not predictor.task.threshold
    remarks = [f"{has} {value}: {LESS}"] * unsure
    return likely, "; ".join([*remarks, *[words] * bool(words)])


def known(run: Path, predictor: Predictor, scored: bool = True) -> list[str]:
    """Returns lines about a classifier: its classes, its accuracy, and when it names no class.

    Args:
        run: Run directory, or a learner's file, which does not state the accuracy.
        predictor: The run's classifier.
        scored: Whether the classifier answers as it did when the run scored it.
    """
    from jaxch5.data.pictures import read_pictures
    from jaxch5.metrics import is_number, wilson_interval
    from jaxch5.run.directory import RunDir

    names = ", ".join(map(printable, predictor.classes[:CLASSES]))
    more = f" and {len(predictor.classes) - CLASSES:,} more" * (len(predictor.classes) > CLASSES)
    knows = counted(len(predictor.classes), "class", "classes")
    lines = [f"The classifier knows {knows}: {names}{more}."]
    if scored and run.is_dir():
        pictures = read_pictures(RunDir(run).pictures_file)
        share = predictor.record.get("accuracy")
        total = int(pictures.held_out.sum()) if pictures else 0
        if total and is_number(share):
            low, high = wilson_interval(round(share * total), total)
            lines.append(
                f"It was right on {percent(share)} of {counted(total, 'validation picture')}; "
                f"Wilson's 95 % interval is {percent(low)} to {percent(high)}."
            )
    threshold = predictor.task.threshold
    lines.append(
        f"If no class is at least {percent(threshold, 0)} probable, it answers 'none of these'."
        if threshold
        else "It always names one of its classes; the page asks 'none of these?' if all other "
        "classes together are more probable than the one that it names."
    )
    return lines


def examples(run: Path, folder: Path) -> list[str]:
    """Writes some of a run's validation pictures into a folder, and returns the files' paths.

    One picture of each class comes first. No picture is written if the run has no record of its
    validation pictures, and no more are written once one of them cannot be read. Nothing is fetched
    just because a run names it: no picture is written if the set, or a link in its table, is not on
    this machine.
    """
    from jaxch5.config.building import load_source
    from jaxch5.data.canvases import whole_picture
    from jaxch5.data.pictures import find, pictures_of, read_pictures
    from jaxch5.run.directory import open_run

    files: list[str] = []
    try:
        directory, config = open_run(run)
        pictures = read_pictures(directory.pictures_file)
        if pictures is None:
            return files
        source = load_source(config.data, fetch=False)
        found = find(pictures, pictures_of(source))
        there = np.flatnonzero(pictures.held_out & found.same)
        # One picture of each class comes before a second one of any class.
        _, first = np.unique(pictures.labels[there], return_index=True)
        chosen = there[[*first, *np.setdiff1d(np.arange(len(there)), first)]][:EXAMPLES]
        for item in found.places[chosen].tolist():
            content, file = source.read(item), folder / f"{len(files) + 1}.jpg"
            if isinstance(content, bytes) and content.startswith(JPEG):
                file.write_bytes(content)
            else:
                file = file.with_suffix(".png")
                whole_picture(source, item, LARGEST_EXAMPLE).save(file)
            files.append(str(file))
    except (Jaxch5Error, OSError):
        pass
    return files


def _reading(predictor: Predictor, content: bytes) -> tuple[Predictor, str]:
    """Returns the classifier with a range guessed for a picture of over 8 bits, and a remark."""
    from jaxch5.data.scale import guess_range

    if predictor.about.range != "auto":
        return predictor, ""
    text, words = guess_range(1, lambda _: content, max_pixels=predictor.about.max_pixels)
    return predictor.reading(range=text), words


def look(predictor: Predictor, picture: Picture) -> np.ndarray | None:
    """Draws which regions support the most probable class; returns None if that is impossible."""
    from jaxch5.results.attribution import attribution

    try:
        if isinstance(picture, str):
            predictor, _ = _reading(predictor, Path(picture).read_bytes())
        drawn = attribution(predictor, picture).overlay()
    except (Jaxch5Error, OSError):
        return None
    return np.asarray(drawn.resize((HEIGHT * drawn.width // drawn.height, HEIGHT)))


def page(
    title: str,
    answer: Callable[[str | None], Answer],
    look: Callable[[str], np.ndarray | None] = lambda path: None,
    known: Sequence[str] = (),
    examples: Sequence[str] = (),
) -> Any:
    """Makes an ASGI application: a page with a place to drop a picture, and the answer.

    Args:
        title: Title of the page.
        answer: Function that takes the path of the dropped file, or None after the file was
            removed, and returns what the page shows.
        look: Function that takes the path of a classified picture's file and returns a drawing of
            where the network looks.
        known: Lines about the classifier.
        examples: Files of example pictures.
    """
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    def shown(dropped: dict[str, Any] | None) -> tuple[Any, Any, Any]:
        probabilities, message = answer(dropped["path"] if dropped else None)
        failed = bool(message) and not probabilities
        label = NO_ANSWER if failed else NONE_OF_THESE if LESS in message else HOW_READ
        looked = look(dropped["path"]) if dropped and probabilities else None
        return (
            gr.Label(probabilities, visible=not failed),
            gr.Textbox(message, label=label, visible=bool(message)),
            gr.Image(looked, visible=looked is not None),
        )

    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(DELETE_EVERY, DELETE_AFTER)
    ) as blocks:
        gr.Markdown("# What is in this picture?")
        if known:
            # The lines are plain text, since names of classes may contain anything.
            said = "\n".join(known)
            gr.Textbox(said, show_label=False, interactive=False, lines=len(known), max_lines=12)
        with gr.Row():
            picture = gr.Image(
                label="Picture", sources=["upload", "clipboard"], buttons=[], height=HEIGHT
            )
            with gr.Column():
                label = gr.Label(label="Class", num_top_classes=SHOWN)
                message = gr.Textbox(label=NO_ANSWER, visible=False)
                looked = gr.Image(label=LOOKED, visible=False, buttons=[], height=HEIGHT)
        if examples:
            gr.Examples([[file] for file in examples], picture, label=EXAMPLES_ARE)
        # Gradio does not decode pictures here: our decoder knows more formats, and says what is
        # wrong with a broken file.
        picture.change(
            shown, picture, [label, message, looked], preprocess=False, api_visibility="private"
        )

    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=NAMES)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        show_error=False,
        # The system's fonts are used, since any others would have to be fetched.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    return with_policy(app)


def with_policy(app: Any) -> Any:
    """Wraps an ASGI application so that its responses carry `POLICY` as a header."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                event = event | {"headers": [*event.get("headers", ()), header]}
            await send(event)

        await app(scope, receive, send_with_policy)

    return wrapped


def _set(name: str, value: str | None) -> None:
    """Sets an environment variable, or unsets it if there is no value."""
    os.environ.pop(name, None)
    if value:
        os.environ[name] = value


def main() -> int:
    return run(demo, DemoOptions, "jaxch5 demo")


if __name__ == "__main__":
    sys.exit(main())
