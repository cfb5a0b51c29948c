"""The page: its layout, and what happens when something on it is pressed. Only what the model can do is on it."""

import contextlib
import functools
import html
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from marble.data.images import as_picture
from marble.demo import pictures, requests, uploads
from marble.demo.device import Device, Done, Waiting
from marble.demo.model import OWN_SAMPLER, Model
from marble.errors import InputError, RunError
from marble.parallel import explained_memory_error
from marble.pipelines.progress import OnStep, Progress

logger = logging.getLogger(__name__)

CANVAS = 512
"""Least side of the image that is painted on."""
REFRESH = 0.1
"""Least seconds between two pictures of a drawing that goes on."""
PAINT = "rgba(229, 57, 53, 0.75)"
KEPT = (600, 3600)
"""Every so many seconds the files that are older than so many are deleted."""
RANDOM = "() => Math.floor(Math.random() * 4294967296)"
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO_FONTS = ("ui-monospace", "Consolas", "monospace")


class Results(NamedTuple):
    """The components of what was drawn."""

    live: gr.HTML
    gallery: gr.Gallery
    way: gr.HTML
    slider: gr.Slider
    way_column: gr.Column
    stop: gr.Button


class Page:
    """The page of one model. ``blocks`` is what Gradio serves."""

    def __init__(self, model: Model, folder: Path) -> None:
        """folder is where Gradio stores what is uploaded: no file outside of it is read."""
        self.model, self.folder, self.device = model, folder, Device(model.limits.patience)
        self.names: list[str] = []
        """Of the settings, in the order of their components."""
        with gr.Blocks(title=f"marble · {model.name}", analytics_enabled=False, delete_cache=KEPT) as self.blocks:
            gr.Markdown(f"# {html.escape(model.name)}\n{html.escape(model.about)}", elem_id="marble-title")
            with gr.Row():
                with gr.Column(scale=5, min_width=320):
                    settings = self._settings()
                    buttons = self._tabs()
                with gr.Column(scale=6, min_width=320):
                    results = self._results()
            drawings = [self._on_press(*button, settings, results) for button in buttons]
            stopped = lambda: (pictures.live("stopped", 0), gr.Button(visible=False))  # noqa: E731
            told = dict(queue=False, show_progress="hidden", api_visibility="private")
            results.stop.click(stopped, None, [results.live, results.stop], cancels=drawings, **told)

    def _settings(self) -> list[gr.components.Component]:
        """What all ways of drawing share; their names are those of ``Settings``."""
        model, found = self.model, {}
        if model.reads_text:
            found["text"] = gr.Textbox(label="Prompt", lines=2, max_length=model.limits.max_text, elem_id="prompt")
            if model.is_guided:
                found["negative_text"] = gr.Textbox(
                    label="Negative prompt", max_length=model.limits.max_text, elem_id="negative"
                )
        if model.classes:
            found["label"] = gr.Dropdown(model.classes, value=model.classes[0][1], label="Class", elem_id="class")
        with gr.Row():
            found["num"] = gr.Slider(1, model.limits.max_images, 1, step=1, label="Images", min_width=140)
            found["steps"] = gr.Slider(1, model.max_steps, model.steps, step=1, label="Steps", min_width=140)
        with gr.Row():
            if model.is_guided:
                scale = model.pipe.config.guidance_scale
                found["guidance_scale"] = gr.Slider(
                    0, model.max_guidance, scale, step=0.1, label="Guidance", min_width=140
                )
            found["seed"] = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed", min_width=140)
            another = gr.Button("Another seed", size="md", min_width=120, elem_id="another")
        another.click(None, outputs=found["seed"], js=RANDOM, queue=False)
        self.names = list(found)
        return list(found.values())

    def _tabs(self) -> list[tuple[Any, Callable[..., Any], list[gr.components.Component]]]:
        """For each way of drawing: what begins it, what it calls, and what that is given beside the settings."""
        with gr.Tabs():
            with gr.Tab("From noise"):
                sampler = gr.Dropdown([OWN_SAMPLER, *self.model.samplers], label="Sampler", elem_id="sampler")
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
            with gr.Tab("From an image"):
                varied = self._upload("vary-image")
                strength = gr.Slider(0, 1, 0.5, step=0.01, label="Strength: 0 is the image, 1 pure noise")
                vary = gr.Button("Draw variations", variant="primary", elem_id="vary")
            with gr.Tab("Fill a hole"):
                holed = self._upload("fill-image")
                editor = gr.ImageEditor(
                    label="Paint over what is to be drawn anew",
                    **dict(sources=(), transforms=(), layers=False, buttons=[], format="png", elem_id="fill-editor"),
                    brush=gr.Brush(default_size=40, colors=[PAINT], color_mode="fixed"),
                )
                repeats = self.model.limits.max_resamples
                resamples = gr.Slider(
                    1, repeats, min(5, repeats), step=1, label="Repetitions of each step: more fit better"
                )
                fill = gr.Button("Fill", variant="primary", elem_id="fill")
            with gr.Tab("To noise"):
                noised = self._upload("noise-image")
                share = gr.Slider(0, 1, 0.3, step=0.01, label="Noise level: 0 is the image, 1 the last step")
        holed.change(
            *(self._canvas, holed, editor),
            **dict(preprocess=False, show_progress="hidden", api_visibility="private"),
            **dict(concurrency_limit=1, concurrency_id="canvas"),  # it decodes pixels: one at a time, in the queue
        )
        return [
            (draw.click, self._drawn, [sampler]),
            (vary.click, self._varied, [varied, strength]),
            (fill.click, self._filled, [holed, editor, resamples]),
            (share.release, self._noised, [noised, share]),
            (noised.upload, self._noised, [noised, share]),
        ]

    def _upload(self, elem_id: str) -> gr.Image:
        return gr.Image(
            label="Image: PNG, JPEG or WebP",
            **dict(sources=["upload", "clipboard"], type="filepath", height=220, buttons=[], elem_id=elem_id),
        )

    def _results(self) -> Results:
        sharp = ["sharp"] if max(self.model.pipe.image.shape[:2]) < pictures.SHARP else []
        live = gr.HTML(pictures.live("nothing drawn yet", 0), elem_id="marble-live")
        stop = gr.Button("Stop", size="sm", elem_id="stop", visible=False)
        gallery = gr.Gallery(
            **dict(label="Images", format="png", columns=2, object_fit="contain", interactive=False, visible=False),
            **dict(elem_id="gallery", elem_classes=sharp, buttons=["download", "fullscreen"], show_label=False),
        )
        with gr.Column(visible=False) as column:
            slider = gr.Slider(0, 1, 1, step=1, label="The way from noise", buttons=[], elem_id="way-slider")
            way = gr.HTML(elem_id="way")
        slider.change(None, slider, js=pictures.SWITCH, queue=False)
        return Results(live, gallery, way, slider, column, stop)

    def _on_press(
        self, listen: Any, call: Callable[..., Any], own: list[Any], settings: list[Any], results: Results
    ) -> Any:
        """Has call made by that event; all such calls wait in one queue."""
        name = call.__name__.strip("_")
        limits = dict(concurrency_limit=1, concurrency_id="device", trigger_mode="once")
        return listen(
            *(functools.partial(self._handled, call), [*settings, *own], list(results)),
            **dict(preprocess=False, show_progress="hidden", api_name=name, **limits),
        )

    def _handled(self, call: Callable[..., Any], *values: Any) -> Iterator[tuple[Any, ...]]:
        count = len(self.names)
        settings = requests.Settings(**dict(zip(self.names, values[:count], strict=True)))
        with refusals_told():
            yield from call(requests.read(self.model, settings), *values[count:])

    def _drawn(self, asked: requests.Request, sampler: Any) -> Iterator[tuple[Any, ...]]:
        return self._follow(asked, lambda on_step: requests.draw(self.model, asked, sampler, on_step))

    def _varied(self, asked: requests.Request, payload: Any, strength: Any) -> Iterator[tuple[Any, ...]]:
        image = self._image(payload)
        return self._follow(asked, lambda on_step: requests.vary(self.model, asked, image, strength, on_step))

    def _filled(self, asked: requests.Request, payload: Any, edited: Any, resamples: Any) -> Iterator[tuple[Any, ...]]:
        image, mask = self._image(payload), self._mask(edited)
        return self._follow(asked, lambda on_step: requests.fill(self.model, asked, image, mask, resamples, on_step))

    def _noised(self, asked: requests.Request, payload: Any, share: Any) -> Iterator[tuple[Any, ...]]:
        image = self._image(payload)
        for event in self.device.follow(lambda _: requests.noise(self.model, asked, image, share)):
            if isinstance(event, Done):
                said, noised = event.result
                captions = ("image", "noised", "estimate")
                shown = zip(map(as_picture, (image, noised.x_t[0], noised.x_0[0])), captions, strict=True)
                yield pictures.live(said, 1), gr.Gallery(list(shown), visible=True, columns=3), *_no_way()
            else:
                yield pictures.live(_waiting(event), 0), gr.skip(), *_goes_on()

    def _follow(self, asked: requests.Request, call: Callable[[OnStep], np.ndarray]) -> Iterator[tuple[Any, ...]]:
        """What the page shows while a call goes on, and in the end."""
        seen, shown, at = None, [], 0.0
        for event in self.device.follow(call, asked.every):
            if isinstance(event, Done):
                steps = pictures.joined(shown)
                yield (*_end(event.result, event.seconds), *_way(steps))
            elif isinstance(event, Waiting):
                if seen is None:
                    yield pictures.live(_waiting(event), 0), gr.skip(), *_goes_on()
            else:
                event = _trimmed(event, asked.num)
                if event.x is not None:
                    seen, shown = event, [*shown, event]
                if time.monotonic() - at > REFRESH or seen is event:
                    at = time.monotonic()
                    line = f"step {event.done} of {event.total}"
                    estimates = None if seen is None else seen.x_0
                    share = event.done / event.total
                    yield pictures.live(line, share, estimates), gr.Gallery(visible=False), *_goes_on()

    def _image(self, payload: Any) -> np.ndarray:
        """uint8 [h w c] of the model's size."""
        limits = self.model.limits
        return uploads.read_image(
            uploads.stored_upload(payload, self.folder, limits), self.model.pipe.image.shape, limits
        )

    def _mask(self, edited: Any) -> np.ndarray:
        """bool [h w] of what was painted."""
        layers = edited.get("layers") if isinstance(edited, dict) else None
        if not isinstance(layers, list) or not layers:
            raise InputError("nothing is painted over: upload an image, and paint over what is to be drawn anew")
        limits = self.model.limits
        return uploads.read_mask(
            uploads.stored_upload(layers[0], self.folder, limits), self.model.pipe.image.shape, limits
        )

    def _canvas(self, payload: Any) -> Any:
        """The upload as it will be drawn in, large enough to paint on."""
        if payload is None:
            return None
        with refusals_told():
            picture = as_picture(self._image(payload)).convert("RGB")
        scale = -(-CANVAS // min(picture.size))
        size = (picture.width * scale, picture.height * scale)
        large = picture.resize(size, Image.Resampling.NEAREST) if scale > 1 else picture
        return {"background": large, "layers": [], "composite": large}


@contextlib.contextmanager
def refusals_told() -> Iterator[None]:
    """Errors as what the page shows: what was asked wrongly, as it is; what failed, without its insides."""
    try:
        with explained_memory_error():
            yield
    except InputError as error:
        raise gr.Error(html.escape(str(error)), title="Not drawn", print_exception=False) from None
    except Exception as error:  # any at all: whoever draws is no developer, and the page goes on for the others
        logger.error("a request failed", exc_info=error)
        said = str(error) if isinstance(error, RunError) else "the program's log says why"
        raise gr.Error(html.escape(said), title="It failed", print_exception=False) from None


def theme() -> gr.Theme:
    """One that needs no fonts of other hosts."""
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=MONO_FONTS)


def _waiting(event: Waiting | Progress) -> str:
    if isinstance(event, Progress):
        return "at work"
    seconds = f"{event.seconds:.0f} s"
    return f"at work: the first drawing of a kind is compiled, {seconds}" if event.has_begun else f"waits, {seconds}"


def _trimmed(step: Progress, num: int) -> Progress:
    """The step with no more images than were asked for."""
    if step.x is None:
        return step
    return step._replace(x=step.x[: num - step.first], x_0=step.x_0[: num - step.first])


def _end(images: np.ndarray, seconds: float) -> tuple[Any, ...]:
    what = "1 image" if len(images) == 1 else f"{len(images)} images"
    line = pictures.live(f"{what} in {seconds:.1f} s", 1)
    return line, gr.Gallery([as_picture(image) for image in images], visible=True, columns=2)


def _way(steps: list[Progress]) -> tuple[Any, ...]:
    if not steps:
        return _no_way()
    last = len(steps) - 1
    slider = gr.Slider(maximum=max(1, last), value=last, interactive=last > 0)
    return pictures.way(steps), slider, gr.Column(visible=True), gr.Button(visible=False)


def _no_way() -> tuple[Any, ...]:
    return "", gr.skip(), gr.Column(visible=False), gr.Button(visible=False)


def _goes_on() -> tuple[Any, ...]:
    return gr.skip(), gr.skip(), gr.skip(), gr.Button(visible=True)
