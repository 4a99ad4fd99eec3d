"""The console command `moon`: one table of commands, each imported when it is called."""

import errno
import sys
import traceback
from importlib import import_module
from typing import NoReturn

from data.errors import InputError
from data.host import let_waiting_threads_sleep
from data.leaving import leave

COMMANDS = {
    "prepare": ("data.prepare:main", "raw logs and catalogues -> a prepared dataset"),
    "inspect": ("experiments.inspect:main", "what a dataset, store, run or export holds, and its health"),
    "train": ("experiments.end_to_end:main", "a recipe and a prepared dataset -> a trained run"),
    "plan": (
        "ranker.plan_command:main",
        "a recipe on a cluster that is not here: memory, step time, what does not fit",
    ),
    "eval": ("ranker.evaluate:main", "metrics of a trained run, with slices"),
    "export": ("ranker.exporting.command:main", "a trained run -> a package that gives the same scores"),
    "score": ("ranker.serving.score:main", "an exported package and a parquet file -> scores, in order"),
    "serve": ("ranker.serving.serve:main", "an exported package over HTTP and gRPC (Open Inference Protocol)"),
    "compare": ("ranker.compare:main", "runs against the first one, with intervals"),
    "encoder pretrain": ("moon_encoder.pretrain_command:main", "stage 1: generation tasks over a catalogue"),
    "encoder posttrain": ("moon_encoder.posttrain_command:main", "stages A and B: contrastive, on behaviour pairs"),
    "encoder embed": ("moon_encoder.embed_command:main", "an encoder's vectors of all items -> a store"),
    "encoder watch": ("moon_encoder.watch_command:main", "an inbox of new items -> the store, within seconds"),
    "encoder recall": ("moon_encoder.recall_command:main", "search recall with intervals and a gallery"),
    "study ablation": ("experiments.ablation.command:main", "mechanisms x vector modes x prefixes, measured"),
    "lift": ("experiments.lift.command:main", "an online A/B test of runs on a simulated marketplace"),
    "ope": ("experiments.ope.command:main", "a policy's value from the log of another one"),
    "study exchange-rate": ("experiments.studies.exchange_rate:main", "what a point of an intermediate metric buys"),
    "study scaling": ("experiments.studies.scaling:main", "how far more pairs, negatives, behaviours and weights go"),
    "study iterations": ("experiments.studies.iterations:main", "what each step from a frozen vector to CUBE brings"),
    "study tune": ("experiments.studies.tune:main", "hyper-parameters of a recipe, on valid only"),
    "study lift": ("experiments.lift.shares:main", "the lift of vectors against the share that content explains"),
    "report": ("experiments.report.command:main", "runs, studies, lifts, encoders, stores -> one HTML page"),
    "bench": ("experiments.bench:main", "measured speed"),
    "demo": ("experiments.demo:main", "all of it on a simulated marketplace, ending in a report"),
}

WITHOUT_TORCH = ("prepare", "inspect")
FAMILIES = sorted({name.split()[0] for name in COMMANDS if " " in name})
HELP = ("-h", "--help")
INPUT_ERROR, FAILURE = 2, 1


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status (2: bad input, 1: anything else went wrong), with one line on stderr."""
    argv = sorted(sys.argv[1:] if argv is None else argv, key=HELP.__contains__)  # the command's name comes first
    debug = "--debug" in argv
    if debug:
        argv.remove("--debug")
    name = command_name([word for word in argv if word not in HELP])
    known = {command: what for command, (_, what) in COMMANDS.items() if f"{command} ".startswith(f"{name} ".lstrip())}
    if known and name not in COMMANDS:
        print(f"usage: moon {name or 'COMMAND'} ... [--debug]\n")
        print("\n".join(f"  {command:<19} {what}" for command, what in known.items()))
        print("\nmoon COMMAND --help shows its options.")
        return 0
    try:
        return _run(name, argv[len(name.split()) :])
    except KeyboardInterrupt:
        print("moon: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"moon {name}: {describe(error)}", file=sys.stderr)
        return INPUT_ERROR if isinstance(error, InputError) else FAILURE


def command_name(argv: list[str]) -> str:
    """The command that `argv` begins with, if any: two words where the first is a family (`encoder`), else one."""
    return " ".join(argv[:2] if argv and argv[0] in FAMILIES else argv[:1])


def _run(name: str, argv: list[str]) -> int:
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, [*COMMANDS, *FAMILIES], n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands: {', '.join(COMMANDS)}"
        raise InputError(f"no such command; {hint}")
    if name not in WITHOUT_TORCH:
        from ranker.versions import check_versions

        let_waiting_threads_sleep()
        check_versions()  # before the import: packages that do not match fail in it with an undefined symbol
    module, function = COMMANDS[name][0].split(":")
    return getattr(import_module(module), function)(argv)


def describe(error: Exception) -> str:
    """An exception in one line, in the user's terms where we know them."""
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"disk full while writing {error.filename or 'the output'}; nothing half-written was published"
    return f"{type(error).__name__}: {text} (--debug shows the traceback)"


def console() -> NoReturn:
    """`main` as a process of its own."""
    leave(main)


if __name__ == "__main__":
    console()
