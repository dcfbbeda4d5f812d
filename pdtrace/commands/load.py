"""Send prompts to a prefill engine at planned times, and write down what becomes of them.

By default four prompts of 8192 tokens at once, one for each DP rank in turn, one token of output,
the KV cache handed to a fake peer: no decode engine is needed. Bodies are made and sent up to their
last byte before the clock starts; how late the last bytes went out is printed and written.

  pdtrace load http://127.0.0.1:30000 --batch-size 4 --input-len 8192 --dp-size 4 --flush-cache
  pdtrace load http://127.0.0.1:30000 -o run/ --warmup 2 --precision 0.05 --max-repeats 30
  pdtrace load http://127.0.0.1:30000 -o run/ --arrivals poisson --rate 8 --batch-size 400
  pdtrace load http://127.0.0.1:30000 -o run/ --arrivals closed --concurrency 16 --batch-size 200
  pdtrace load http://127.0.0.1:30000 -o run/ --rank-offsets-ms 0,5,5,5 --repeats 10
  pdtrace load http://127.0.0.1:30000 -o run/ --replay recorded/
  pdtrace load --ab http://127.0.0.1:30000 http://127.0.0.1:30001 -o ab/ --repeats 10

Ctrl-C sends nothing more, waits up to 5 s for answers (again: not at all), completes the files and
ends with 130 (SIGTERM: 143). An engine that wants a key gets it from PDTRACE_API_KEY.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from pdtrace.client.summary import LoadResult


def _refuse(wanted: str) -> Exception:
    from argparse import ArgumentTypeError

    return ArgumentTypeError(f"expected {wanted}")


def _whole(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
        raise _refuse(f"a whole number from {least} to {most}")
    return int(text)


def _number(text: str) -> int:
    return _whole(text, 1, 1_000_000)


def _count(text: str) -> int:
    return _whole(text, 0, 1_000_000)


def _port(text: str) -> int:
    return _whole(text, 1, 65535)


def _duration(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:
        raise _refuse("a number from 0 to below 1000000000")
    return number


def _positive(text: str) -> float:
    number = _duration(text)
    if not number:
        raise _refuse("a number above 0")
    return number


def _durations(text: str) -> tuple[float, ...]:
    return tuple(_duration(part) for part in text.split(","))


def _tokens(text: str) -> object:
    from pdtrace.client.settings import MAX_INPUT_LEN, parse_lengths

    try:
        return parse_lengths(text)
    except ValueError:
        raise _refuse(
            f"tokens from 1 to {MAX_INPUT_LEN}, as 8192, 1024-4096 or 4096,1024"
        ) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``load``."""
    parser.add_argument("url", metavar="URL", nargs="?", help="the engine, as http://HOST:PORT")
    parser.add_argument(
        "--ab",
        nargs=2,
        metavar=("URL_A", "URL_B"),
        help="instead: two engines that get the same requests in turns (A B, B A, …); compared",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="the run directory, new or empty")
    parser.add_argument(
        "--force",
        action="store_true",
        help="take a DIR that holds files: replace those of an earlier load, keep the rest",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the sums as JSON; - is standard output, alone"
    )
    load = parser.add_argument_group("what is sent when")
    load.add_argument(
        "--arrivals",
        choices=("batch", "poisson", "burst", "closed"),
        help="at once, at random, in bursts, or by clients (batch)",
    )
    load.add_argument("--batch-size", metavar="N", type=_number, help="requests of a repeat (4)")
    load.add_argument(
        "--input-len",
        metavar="N",
        type=_tokens,
        help="tokens of a prompt: 8192; drawn, 1024-4096; or in turn, 4096,1024 (8192)",
    )
    load.add_argument(
        "--output-len", metavar="N", type=_number, default=1, help="tokens to generate (1)"
    )
    load.add_argument(
        "--stagger-ms", metavar="MS", type=_duration, help="from one request to the next (0)"
    )
    load.add_argument(
        "--rank-offsets-ms",
        metavar="MS,MS…",
        type=_durations,
        help="added to a request's time by its DP rank, rank 0 first",
    )
    load.add_argument("--rate", metavar="R", type=_positive, help="poisson: requests a second")
    load.add_argument("--burst-size", metavar="N", type=_number, help="burst: requests of each (8)")
    load.add_argument(
        "--burst-gap-ms", metavar="MS", type=_duration, help="from one burst to the next (1000)"
    )
    load.add_argument("--concurrency", metavar="N", type=_number, help="closed: clients (4)")
    load.add_argument(
        "--think-ms", metavar="MS", type=_duration, help="closed: from answer to next request (0)"
    )
    load.add_argument(
        "--replay", metavar="PATH", help="the requests of a recorded run, with its times and ids"
    )
    load.add_argument(
        "--prompts-per-post",
        metavar="N",
        type=_number,
        help="simultaneous prompts in one HTTP request (1)",
    )
    load.add_argument(
        "--tokenizer", metavar="NAME", help="send texts: a tokenizer.json, its directory, or a name"
    )
    load.add_argument(
        "--vocab-size",
        metavar="N",
        type=_number,
        default=32000,
        help="input ids are below (%(default)s)",
    )
    load.add_argument(
        "--phase", metavar="NAME", help="what request ids begin with (the kind of arrivals)"
    )
    load.add_argument(
        "--seed", metavar="S", type=_count, default=0, help="of all that is drawn (%(default)s)"
    )
    where = parser.add_argument_group("where to")
    where.add_argument(
        "--dp-size", metavar="N", type=_number, help="DP ranks to spread over (the engine's)"
    )
    where.add_argument(
        "--route",
        nargs="+",
        metavar=("WHERE", "N"),
        help="round-robin, rank N, balancer, or recorded (round-robin; with --replay: recorded)",
    )
    where.add_argument(
        "--engine-version", metavar="V", help="whose fields are sent (as the engine says)"
    )
    where.add_argument(
        "--bootstrap-host",
        metavar="ADDRESS",
        help="who takes the KV cache (2.2.2.2, a fake that every release knows); none: no transfer",
    )
    where.add_argument(
        "--bootstrap-port", metavar="N", type=_port, help="the port of that address (none)"
    )
    where.add_argument(
        "--decode-url",
        metavar="URL",
        help="a decode engine: it is sent each request too, and fetches the KV cache",
    )
    bounds = parser.add_argument_group("how often, and how long at most")
    bounds.add_argument(
        "--warmup",
        metavar="N",
        type=_count,
        default=0,
        help="requests of every rank before, not written down (%(default)s)",
    )
    bounds.add_argument(
        "--flush-cache", action="store_true", help="flush the prefix cache before each repeat"
    )
    bounds.add_argument(
        "--repeats",
        metavar="N",
        type=_number,
        default=1,
        help="how often all is sent (%(default)s)",
    )
    bounds.add_argument(
        "--precision",
        metavar="X",
        type=_positive,
        help="repeat until the mean makespan's 95 %% interval is within ± this share, as 0.05",
    )
    bounds.add_argument(
        "--max-repeats",
        metavar="N",
        type=_number,
        default=30,
        help="with --precision, at most (%(default)s)",
    )
    bounds.add_argument(
        "--pause-ms",
        metavar="MS",
        type=_duration,
        default=300.0,
        help="between repeats (%(default)g)",
    )
    bounds.add_argument(
        "--max-requests",
        metavar="N",
        type=_number,
        default=100_000,
        help="sent in all to an engine (%(default)s)",
    )
    bounds.add_argument(
        "--max-duration",
        metavar="S",
        type=_positive,
        default=3600.0,
        help="sending in all (%(default)g)",
    )
    bounds.add_argument(
        "--timeout", metavar="S", type=_positive, default=300.0, help="for an answer (%(default)g)"
    )
    bounds.add_argument(
        "--connect-timeout",
        metavar="S",
        type=_positive,
        default=10.0,
        help="for a connection (%(default)g)",
    )
    bounds.add_argument(
        "--wait",
        metavar="S",
        type=_duration,
        default=0.0,
        help="at the start, for an engine that does not answer yet (%(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Send the load, say what came of it, and compare two engines.

    Raises:
        UsageError: Options do not fit together or the engine, or the extra is missing.
        InputError: There is no engine, or nothing to replay.
        NothingMeasuredError: No request was answered, or the two runs cannot be compared.
        OutputError: The directory cannot be used.
    """
    import sys

    from pdtrace.client.options import build_settings
    from pdtrace.errors import NothingMeasuredError, UsageError
    from pdtrace.exports.overwriting import check_directory, check_outputs
    from pdtrace.exports.writing import STDOUT, write_text
    from pdtrace.untrusted import show

    settings = build_settings(args)
    _check_json(args.json)
    check_outputs({"--json": args.json}, [args.replay])
    check_directory("-o", args.output, [args.replay])
    try:
        from pdtrace.client.session import run_load
        from pdtrace.client.summary import describe, write_summary_json
    except ImportError as error:
        raise UsageError(
            f"load needs the extra pdtrace[load] ({error.name} is missing):"
            " pip install 'pdtrace[load]'"
        ) from error

    def say(line: str) -> None:
        if args.json != STDOUT:
            write_text(STDOUT, line + "\n")

    def warn(line: str) -> None:
        sys.stderr.write(f"pdtrace: {show(line)}\n")
        sys.stderr.flush()

    result, caught = run_load(settings, say, warn)
    for engine in result.engines:
        for line in describe(engine):
            say(f"{line}  ({engine.name})" if engine.name else line)
    if args.json:
        write_text(args.json, write_summary_json(result))
    if result.stopped not in ("done", "nothing_answered"):
        warn(_why(result, args))
    if caught is not None:
        return 128 + caught
    if not result.num_ok:
        raise NothingMeasuredError(f"no request was answered{_first_error(result)}")
    if args.ab and args.json != STDOUT:
        _compare(args)
    return 0


def _check_json(name: str | None) -> None:
    """Find out before the load, not after it, that its sums could not be written."""
    from pathlib import Path

    from pdtrace.errors import OutputError
    from pdtrace.exports.writing import STDOUT

    if name is not None and name != STDOUT and not Path(name).parent.is_dir():
        raise OutputError(f"{name}: its directory does not exist")


def _why(result: LoadResult, args: argparse.Namespace) -> str:
    if result.stopped == "interrupted":
        where = f"; {args.output} is complete up to there" if args.output else ""
        return f"interrupted{where}"
    bound = f"--{result.stopped.replace('_', '-')}"
    return f"ended by {bound}, before all was sent that was asked for"


def _first_error(result: LoadResult) -> str:
    errors = (o.answer.error for engine in result.engines for o in engine.outcomes)
    first = next((e for e in errors if e), None)
    return "" if first is None else f": {first}"


def _compare(args: argparse.Namespace) -> None:
    """Compare the two runs, as ``pdtrace compare DIR/a DIR/b`` does."""
    import argparse as argparse_module
    from pathlib import Path

    from pdtrace.commands import compare

    parser = argparse_module.ArgumentParser()
    compare.add_arguments(parser)
    top = Path(args.output)
    compare.run(parser.parse_args([str(top / "a"), str(top / "b")]))
