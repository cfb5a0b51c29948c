"""marble demo: a page where anybody with a browser draws from a trained model.

  marble demo --workdir runs/digits                     then open http://127.0.0.1:7860
  marble demo --workdir sd15 --max_images 2 --max_steps 50 --dtype bfloat16

Prompt or class, guidance, steps, seed, sampler; the drawing as it goes on, and the way from noise under a slider;
variations of an image, holes painted and filled, an image on the way to noise. Needs the extra [demo].

Only this machine can open the page, unless --host says otherwise: who reaches that address needs no password.
"""

import importlib.util
import logging
import signal
import threading
from typing import Any

from absl import flags

from marble.cli import drawing
from marble.cli.flags import parse, require
from marble.errors import InputError

logger = logging.getLogger(__name__)

SAMPLERS = ("ancestral", "ddim", "dpm_solver_2m", "unipc", "heun", "pndm", "euler")
"""Those on the page: each is a program, of which a pipeline keeps eight. ode calls the network as often as it likes."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def define(values: flags.FlagValues) -> None:
    """The flags of marble demo."""
    text = dict(flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the training run, or a published checkpoint's.", **text)
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 is all of this machine's.", **text)
    flags.DEFINE_integer("port", 7860, "Port to listen on.", lower_bound=1, upper_bound=65535, **text)
    flags.DEFINE_integer("max_steps", 250, "Sampling steps of a request, at most.", **text)
    flags.DEFINE_integer("max_images", 4, "Images of a request, at most.", **text)
    flags.DEFINE_integer("max_queue", 16, "Requests that wait, at most; others are refused.", **text)
    drawing.define_parameters(values)


def main(argv: list[str]) -> int:
    """Serves the page until Ctrl-C or SIGTERM, and returns the exit status."""
    values = parse("demo", __doc__, argv, define)
    require(values, "workdir")
    if importlib.util.find_spec("gradio") is None:
        raise InputError(
            "the page needs Gradio: pip install 'marble-diffusion[demo]', in a checkout pip install -e '.[demo]'"
        )
    from marble.demo.limits import Limits
    from marble.demo.server import check_port

    limits = Limits(max_steps=values.max_steps, max_images=values.max_images, max_queue=values.max_queue)
    check_port(values.host, values.port)
    model = opened(values, limits)
    from marble.demo.server import serving

    with serving(model, host=values.host, port=values.port) as url:
        logger.info("the page is at %s until Ctrl-C", url)
        if values.host not in LOOPBACK:
            logger.warning("whoever reaches port %d of this machine can draw: there is no password", values.port)
        wait_for_the_end()
        logger.info("ending; a drawing that is being made ends at its next step")
    return 0


def opened(values: flags.FlagValues, limits: Any) -> Any:
    """The model of --workdir, as its page sees it."""
    import jax

    from marble.demo.model import Model
    from marble.loading import load
    from marble.parallel import use_compilation_cache

    # On one core the CPU's only thread would run the program, and what it shows would be seen when it has ended.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    use_compilation_cache()
    name = values.workdir.rstrip("/").rpartition("/")[2] or "marble"
    return Model.of(load(values.workdir, **drawing.of_parameters(values)), name, SAMPLERS, limits)


def wait_for_the_end() -> None:
    """Until Ctrl-C or, where this is the program's main thread, SIGTERM."""
    ended, before = threading.Event(), {}
    if threading.current_thread() is threading.main_thread():
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, lambda *_: ended.set()) for number in signals}
    try:
        ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
