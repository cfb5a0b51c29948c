"""marble distill: makes of a trained model one that draws in a few steps.

  marble distill --teacher runs/digits --workdir runs/quick --steps 4 [--method progressive|consistency|mean_flow]
  marble sample --workdir runs/quick

progressive halves the steps again and again, each time in a training of its own, from --teacher_steps down to --steps;
consistency learns where the way from any noise ends; mean_flow learns how fast it goes over any span of a way, for
models of rectified flow. --config.section.key=value changes a key of each training's config, as in marble train:
training.num_steps, optimizer.learning_rate. Started again, it goes on where it stopped.
"""

from absl import flags

from marble import strict_json
from marble.cli.flags import check_writable, parse, require
from marble.cli.train import changed, trained
from marble.errors import InputError
from marble.storage import is_remote
from marble.training.interruption import Interruption


def define(values: flags.FlagValues) -> None:
    """The flags of marble distill."""
    text = dict(flag_values=values)
    flags.DEFINE_string("teacher", None, "The run whose model teaches: WORKDIR, or WORKDIR:STEP.", **text)
    flags.DEFINE_string("workdir", None, "Folder of the run that is made.", **text)
    flags.DEFINE_integer("steps", None, "Sampling steps of the model that is made.", **text)
    flags.DEFINE_string("method", "progressive", "progressive, consistency or mean_flow.", **text)
    flags.DEFINE_integer(
        "teacher_steps", 64, "Of progressive: the teacher's steps, of which the first run's are half.", **text
    )
    flags.DEFINE_bool(
        "ask_teacher",
        None,
        "Whether the teacher is asked what it says, or is no more than a beginning.",
        **text,
    )
    flags.DEFINE_float("guidance_scale", 1.0, "How the teacher is guided; the student then needs no guidance.", **text)
    flags.DEFINE_bool("print_config", False, "Print the config of the last training as JSON, and end.", **text)


def main(argv: list[str]) -> int:
    """Trains, and returns the exit status; a process that is asked to stop is its caller's to end."""
    with Interruption(ends_process=False) as interruption:
        return _distil(argv, interruption)


def program(argv: list[str]) -> int:
    """The same for a process that does nothing else: asked to stop, it ends as soon as all is saved."""
    with Interruption() as interruption:
        return _distil(argv, interruption)


def _distil(argv: list[str], interruption: Interruption) -> int:
    changes = [word for word in argv if word.startswith("--config.")]
    values = parse("distill", __doc__, [word for word in argv if word not in changes], define)
    require(values, "teacher", "steps", *([] if values.print_config else ["workdir"]))
    if values.workdir is not None and not is_remote(values.workdir):
        check_writable("workdir", values.workdir)
    from marble import distill

    if values.method not in distill.METHODS:
        raise InputError(f"--method {values.method} is none of {', '.join(distill.METHODS)}")
    made = distill.runs(
        values.teacher,
        values.workdir or "WORKDIR",
        steps=values.steps,
        method=values.method,
        teacher_steps=values.teacher_steps,
        teaches=values.ask_teacher,
        guidance_scale=values.guidance_scale,
    )
    made = [run._replace(config=changed(run.config, changes)) for run in made]
    if values.print_config:
        print(strict_json.dumps_config(made[-1].config.to_dict(), indent=2))
        return 0
    return trained(made, interruption)
