"""Observability and trace analysis for LLM prefill engines with DP attention.

Reads what a prefill engine already writes (its log, spans, metrics) and tells how often its DP
ranks ran alone while the others idled, what that cost, and what the PrefillDelayer did about it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pdtrace
from pdtrace import commands
from pdtrace.errors import PdtraceError, UsageError
from pdtrace.untrusted import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

MOST_REPEATED = 200  # characters of a value that an error repeats; paths are seldom longer
EPILOG = """exit codes: 0 done (a check passed); 1 a check failed; 2 it could not be done or judged,
with one line on standard error that says why"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are pdtrace's: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with the usage."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def find_commands() -> dict[str, ModuleType]:
    """The verbs: each module of ``pdtrace.commands`` is one, its docstring is the help."""
    return {
        m.name.replace("_", "-"): importlib.import_module(f"pdtrace.commands.{m.name}")
        for m in pkgutil.iter_modules(commands.__path__)
    }


def build_parser() -> Parser:
    """The parser of all verbs there are."""
    debug = argparse.ArgumentParser(add_help=False)
    # SUPPRESS: the sub-parser's default would otherwise undo a --debug before the verb.
    debug.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    settings: dict[str, Any] = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "parents": [debug],
        "allow_abbrev": False,
    }
    parser = Parser(prog="pdtrace", description=__doc__, epilog=EPILOG, **settings)
    parser.add_argument("--version", action="version", version=f"pdtrace {pdtrace.__version__}")
    verbs = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="verb", required=True, parser_class=Parser
    )
    for verb, module in find_commands().items():
        text = module.__doc__ or ""
        sub = verbs.add_parser(verb, help=text.partition("\n")[0], description=text, **settings)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; paths may stand on both sides of an option.

    Raises:
        UsageError: It is not one.
    """
    parser = build_parser()
    args, more = parser.parse_known_args(argv)
    # argparse takes a list of positionals only where they stand side by side
    if more:
        paths = getattr(args, "paths", None)
        is_option = any(text.startswith("-") and text != "-" for text in more)
        if is_option or not isinstance(paths, list):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        args.paths = [*paths, *more]
    return args


def shorten_values(message: str, argv: Sequence[str]) -> str:
    """A message about a command line, with the long values that it repeats cut."""
    values = {v for word in argv for v in (word, word.partition("=")[2]) if len(v) > MOST_REPEATED}
    for value in sorted(values, key=len, reverse=True):
        for text in (repr(value), value):
            message = message.replace(text, shorten(text, MOST_REPEATED))
    return message


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and turn whatever goes wrong into one line and an exit code.

    Args:
        argv: Arguments after the program's name; those of the process if not given.

    Returns:
        The exit code; see :mod:`pdtrace.errors`. 130 after Ctrl-C. A reader that closed the pipe
        (``| head``) has had what it wanted: 0.
    """
    argv = sys.argv[1:] if argv is None else argv
    open_closed_streams()
    is_debug = "--debug" in argv
    try:
        args = parse(argv)
        code = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        from pdtrace.exports.writing import drop_stdout

        drop_stdout()
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if is_debug:
            raise
        text = describe(error)
        if isinstance(error, UsageError):
            text = shorten_values(text, argv)
        with suppress(OSError):  # a full disk behind it must not look like a failed check
            print(f"pdtrace: {text}", file=sys.stderr, flush=True)  # noqa: T201 (the one error line)
        return error.exit_code if isinstance(error, PdtraceError) else 2
    return code


def open_closed_streams() -> None:
    """Give a process that was started with closed streams (``>&-``) ones that hold nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 (for good)
            setattr(sys, name, stream)


def describe(error: Exception) -> str:
    """One line about an error, safe to print: names from the input may hold anything."""
    if isinstance(error, PdtraceError):
        text = str(error)
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        text = f"{where}{error.strerror or error}"
    elif isinstance(error, MemoryError):
        text = "out of memory"
    else:
        text = f"internal error, {type(error).__name__}: {error} (--debug shows where)"
    return "".join(c if c.isprintable() else " " for c in text).strip()


if __name__ == "__main__":
    sys.exit(main())
