"""`jaxch5 demo RUN`: serves a page that says what is on a dropped picture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import Options, run
from jaxch5.errors import DataError, Jaxch5Error
from jaxch5.predict import most_likely
from jaxch5.util.loopback import HOST, NAMES, listening
from jaxch5.util.text import printable

if TYPE_CHECKING:
    from jaxch5.data.picture import Picture
    from jaxch5.results.predictor import Predictor

# The browser asks nobody but this server, whatever Gradio's page may want.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
SHOWN = 10
# Height of the picture on the page, pixels.
HEIGHT = 360
LOOKED = "Where the network looks (bright)"
# Seconds between looks for dropped pictures to delete, and their age then; all go at the end.
DELETE_EVERY, DELETE_AFTER = 60, 600
# A browser's tab keeps a connection open, which would hold up the end.
CLOSING_SECONDS = 1

# What the page shows: probabilities of the likely classes, and a message if there are none.
Answer = tuple[dict[str, float], str]


class DemoOptions(Options):
    """Serve a page, to this machine alone, that says what is on a picture that is dropped on it."""

    run: CliPositionalArg[Path] = Field(description="run directory, or a learner's file")
    port: int = Field(7860, ge=0, le=65535, description="port of the page; 0 takes a free one")


def demo(options: DemoOptions) -> dict[str, Any]:
    """Serves the page until it is interrupted.

    Raises:
        Jaxch5Error: What the page is made with is not installed.
    """
    with listening(options.port) as server:
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
        # Compiled now, so that the first dropped picture need not wait for it.
        black = np.zeros((predictor.about.presize, predictor.about.presize, 3), np.uint8)
        predictor.predict(black)
        look(predictor, black)
        app = page(options.run.name, partial(answer, predictor), partial(look, predictor))
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
        # Once it runs it ends by a signal alone, which under load it has failed to pass on.
        if page_server.started:
            raise KeyboardInterrupt
    return {}


def answer(predictor: Predictor, path: str | None) -> Answer:
    """Says what is on the picture in a file; nothing where there is no file.

    Returns:
        Probabilities by class, most likely first, and an empty message; or no probabilities and
        why not.
    """
    if path is None:
        return {}, ""
    try:
        prediction = predictor.predict(Path(path).read_bytes())
    except (DataError, OSError) as error:
        # What follows the semicolon is advice for training.
        return {}, str(error).partition(";")[0]
    likely = dict(most_likely(prediction, predictor.classes, SHOWN))
    if prediction.index == len(predictor.classes):
        (label, share), *_ = likely.items()
        return {}, f"{prediction.label}: {label}, the most probable class, has {share:.0%} only"
    return likely, ""


def look(predictor: Predictor, picture: Picture) -> np.ndarray | None:
    """Shows where the network looks for the most probable class; nothing where it has no map."""
    from jaxch5.results.attribution import attribution

    try:
        drawn = attribution(predictor, picture).overlay()
    except Jaxch5Error:
        return None
    return np.asarray(drawn.resize((HEIGHT * drawn.width // drawn.height, HEIGHT)))


def page(
    title: str,
    answer: Callable[[str | None], Answer],
    look: Callable[[str], np.ndarray | None] = lambda path: None,
) -> Any:
    """Makes an ASGI application: a place to drop a picture, and what is said of it.

    Args:
        title: Title of the page.
        answer: Function from the dropped file, or None once it is taken away, to what is shown.
        look: Function from a file that was answered to a picture of where the network looks.
    """
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    def shown(dropped: dict[str, Any] | None) -> tuple[Any, Any, Any]:
        probabilities, message = answer(dropped["path"] if dropped else None)
        failed = bool(message)
        looked = look(dropped["path"]) if dropped and probabilities else None
        return (
            gr.Label(probabilities, visible=not failed),
            gr.Textbox(message, visible=failed),
            gr.Image(looked, visible=looked is not None),
        )

    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(DELETE_EVERY, DELETE_AFTER)
    ) as blocks:
        gr.Markdown("# What is on a picture?")
        with gr.Row():
            picture = gr.Image(
                label="Picture", sources=["upload", "clipboard"], buttons=[], height=HEIGHT
            )
            with gr.Column():
                label = gr.Label(label="Class", num_top_classes=SHOWN)
                message = gr.Textbox(label="No answer", visible=False)
                looked = gr.Image(label=LOOKED, visible=False, buttons=[], height=HEIGHT)
        # Gradio's own reading of pictures is left out: ours knows more of them, and says what is
        # wrong with a broken one.
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
        # Fonts of the system: the others would be fetched.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    return with_policy(app)


def with_policy(app: Any) -> Any:
    """Returns an ASGI application whose answers carry `POLICY`."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                event = event | {"headers": [*event.get("headers", ()), header]}
            await send(event)

        await app(scope, receive, send_with_policy)

    return wrapped


def main() -> int:
    return run(demo, DemoOptions, "jaxch5 demo")


if __name__ == "__main__":
    sys.exit(main())
