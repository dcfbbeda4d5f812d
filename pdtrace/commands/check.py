"""Check a run in CI: by rules, and against a baseline; exit code 0, 1 or 2.

PATH is a log, several of them, or a run directory; several directories are repeats of one run and
are judged together. Rules may follow the paths at once:

  pdtrace check run/ 'idle_rank_pass_ratio<=0.3'
  pdtrace check main-1/ main-2/ main-3/ --baseline fusion.json --update-baseline
  pdtrace check run/ --baseline fusion.json --junit report.xml
  pdtrace check run/ 'ttft_p50_s:5%' --baseline fusion.json --rules rules.toml

0: passed. 1: failed. 2: could not be judged: another engine setting or workload, not measured, or
too noisy for a rule; a run that could not be judged never passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pdtrace.check.baseline import Baseline
    from pdtrace.check.rules import Rules
    from pdtrace.check.verdicts import CheckResult
    from pdtrace.run import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``check``."""
    from pdtrace.check.outputs import add_output_options
    from pdtrace.reading import add_reading_arguments

    judging = parser.add_argument_group("judging")
    judging.add_argument(
        "--baseline", metavar="FILE", help="runs to judge against; with --update-baseline, to write"
    )
    judging.add_argument("--rules", metavar="FILE", help="a TOML file with rules")
    judging.add_argument(
        "--rule",
        metavar="RULE",
        action="append",
        default=[],
        help="'metric<=0.3', 'metric>=0.3', or 'metric:5%%': may not worsen by more than that "
        "against the baseline (repeatable)",
    )
    judging.add_argument(
        "--strict", action="store_true", help="an inconclusive finding is no pass either: 2"
    )
    judging.add_argument(
        "--update-baseline",
        action="store_true",
        help="add the runs to --baseline FILE, or start it anew if they are no repeats of its runs",
    )
    add_output_options(parser)
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Judge, write what was asked for, and return what the verdict says.

    Raises:
        UsageError: There is nothing to judge by, or options do not fit together.
        InputError: A run, the baseline or the rules cannot be read.
        NothingMeasuredError: It could not be judged; the outputs are written all the same.
    """
    import time

    from pdtrace.check.outputs import check_output_options, write_outputs, writing_errors
    from pdtrace.check.wording import headline
    from pdtrace.errors import NothingMeasuredError
    from pdtrace.exports.writing import drop_stdout

    check_output_options(args)
    started = time.monotonic()
    inline, paths = _part_rules(args.paths)
    with writing_errors(args, paths or ["."]):
        rules = _read_rules(args, inline, paths)
        baseline = _read_baseline(args)
        runs = _load(args, paths)
        if args.update_baseline:
            return _update_baseline(args, runs, baseline)
        result = _judge(args, runs, baseline, rules)
        try:
            write_outputs(args, result, runs[0][1], elapsed_s=time.monotonic() - started)
        except BrokenPipeError:
            # Whoever stopped reading must not turn a failure into a success.
            drop_stdout()
    if result.exit_code == 2:
        raise NothingMeasuredError(headline(result))
    return result.exit_code


def _part_rules(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments that are rules, and those that are paths."""
    from pdtrace.check.rules import looks_like_rule

    rules = [text for text in texts if looks_like_rule(text)]
    return rules, [text for text in texts if text not in rules]


def _read_rules(args: argparse.Namespace, inline: Sequence[str], paths: Sequence[str]) -> Rules:
    """Rules from everywhere."""
    from pdtrace.check.rules import Rules, drop_repeated, parse_rule, read_rules
    from pdtrace.errors import UsageError

    if not paths:
        raise UsageError("name at least one log file or run directory besides the rules")
    if args.update_baseline and args.baseline is None:
        raise UsageError("--update-baseline needs --baseline FILE, the file to write")
    if args.update_baseline and (args.rules is not None or args.rule or inline):
        raise UsageError("--update-baseline judges nothing: leave the rules out")
    found = Rules() if args.rules is None else read_rules(args.rules)
    mine = tuple(parse_rule(text) for text in (*args.rule, *inline))
    return Rules(drop_repeated((*found.rules, *mine)), found.tiers)


def _read_baseline(args: argparse.Namespace) -> Baseline | None:
    from pathlib import Path

    from pdtrace.check.baseline_file import read_baseline

    if args.baseline is None or (args.update_baseline and not Path(args.baseline).exists()):
        return None
    return read_baseline(Path(args.baseline))


def _load(args: argparse.Namespace, paths: Sequence[str]) -> list[tuple[str, Run]]:
    """The runs: each directory is one; log files together are one."""
    from pathlib import Path

    from pdtrace.errors import InputError, UsageError
    from pdtrace.loading import load, reason_for_nothing
    from pdtrace.reading import Bar
    from pdtrace.untrusted import show

    folders = [Path(p).is_dir() for p in paths]
    missing = next((p for p in paths if p != "-" and not Path(p).exists()), None)
    if any(folders) and missing is not None:
        raise InputError("no such file or directory", path=show(missing))
    if any(folders) and not all(folders):
        raise UsageError(
            "log files and run directories at once: several directories are repeats, several files "
            "are one run"
        )
    runs = []
    for group in [[p] for p in paths] if all(folders) else [list(paths)]:
        with Bar() as bar:
            found = load(
                *group, sources=args.sources, dp_size=args.dp_size, tz=args.tz, progress=bar.show
            )
        if (why := reason_for_nothing(found)) is not None:
            raise why
        runs.append((group[0], found))
    return runs


def _judge(
    args: argparse.Namespace,
    runs: Sequence[tuple[str, Run]],
    baseline: Baseline | None,
    rules: Rules,
) -> CheckResult:
    from pdtrace.check.gate import check_runs, require_conclusive

    result = check_runs(runs, baseline, rules, title=args.baseline or "")
    return require_conclusive(result) if args.strict else result


def _update_baseline(
    args: argparse.Namespace, runs: Sequence[tuple[str, Run]], baseline: Baseline | None
) -> int:
    from pdtrace.check.baseline_file import write_baseline
    from pdtrace.check.updating import update_baseline
    from pdtrace.exports.writing import STDOUT, write_text
    from pdtrace.untrusted import show

    updated, what = update_baseline(baseline, runs)
    write_text(args.baseline, write_baseline(updated))
    write_text(STDOUT, f"{show(args.baseline)}: {show(what)}\n")
    return 0
