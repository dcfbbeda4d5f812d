"""From the options of ``pdtrace load`` to its settings, and which of them do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pdtrace.client.settings import (
    FAKE_HOST,
    Arrivals,
    Bounds,
    Lengths,
    LoadSettings,
    Peer,
    Prompts,
    Route,
    check_phase,
    parse_route,
    parse_url,
)
from pdtrace.errors import UsageError

if TYPE_CHECKING:
    import argparse

KINDS = ("batch", "poisson", "burst", "closed")
ONLY_FOR = {
    "stagger_ms": ("batch", "burst"),
    "rate": ("poisson",),
    "burst_size": ("burst",),
    "burst_gap_ms": ("burst",),
    "concurrency": ("closed",),
    "think_ms": ("closed",),
    "rank_offsets_ms": ("batch", "poisson", "burst"),
    "prompts_per_post": ("batch", "burst", "closed"),
    "batch_size": KINDS,
    "input_len": KINDS,
    "phase": KINDS,
}


def build_settings(args: argparse.Namespace) -> LoadSettings:
    """What the options say.

    Raises:
        UsageError: They do not fit together.
    """
    if (args.url is None) == (args.ab is None):
        raise UsageError("name one engine, or two with --ab")
    if args.ab and args.output is None:
        raise UsageError("--ab needs -o DIR: the two runs are compared from their files")
    kind = "replay" if args.replay else args.arrivals or "batch"
    if args.replay and args.arrivals:
        raise UsageError("--replay: the recording says when to send; leave out --arrivals")
    for name, kinds in ONLY_FOR.items():
        if getattr(args, name) is not None and kind not in kinds:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} means nothing with {_name_arrivals(kind)}")
    usual = "recorded" if args.replay else "round-robin"
    route = parse_route(args.route) if args.route else Route(usual)
    if route.kind == "recorded" and not args.replay:
        raise UsageError("--route recorded needs --replay")
    return LoadSettings(
        targets=tuple(parse_url(url) for url in args.ab or [args.url]),
        arrivals=_arrivals(args, kind),
        prompts=Prompts(
            lengths=args.input_len or Lengths(),
            output_len=args.output_len,
            vocab_size=args.vocab_size,
            tokenizer=args.tokenizer,
            per_post=args.prompts_per_post or 1,
            seed=args.seed,
            phase=None if args.phase is None else check_phase(args.phase),
        ),
        route=route,
        peer=_peer(args),
        bounds=_bounds(args),
        directory=args.output,
        is_forced=args.force,
        replay=args.replay,
        dp_size=args.dp_size,
        engine_version=args.engine_version,
        num_warm=args.warmup,
        is_flushed=args.flush_cache,
    )


def _name_arrivals(kind: str) -> str:
    return "--replay" if kind == "replay" else f"--arrivals {kind}"


def _arrivals(args: argparse.Namespace, kind: str) -> Arrivals:
    if kind == "poisson" and args.rate is None:
        raise UsageError("--arrivals poisson needs --rate")
    given = {
        "num_requests": args.batch_size,
        "stagger_s": _seconds(args.stagger_ms),
        "rate": args.rate,
        "burst_size": args.burst_size,
        "burst_gap_s": _seconds(args.burst_gap_ms),
        "concurrency": args.concurrency,
        "think_s": _seconds(args.think_ms),
        "rank_offsets_s": args.rank_offsets_ms and tuple(ms / 1e3 for ms in args.rank_offsets_ms),
    }
    return Arrivals(kind=kind, **{name: v for name, v in given.items() if v is not None})


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _peer(args: argparse.Namespace) -> Peer | None:
    if args.decode_url is not None:
        if args.ab:
            raise UsageError("--decode-url: one decode engine cannot serve two prefill engines")
        if args.bootstrap_host == "none":
            raise UsageError(
                "--decode-url needs a transfer, which --bootstrap-host none leaves out"
            )
        # The decode engine asks there, so it must be the prefill engine's own address.
        host = args.bootstrap_host or parse_url(args.url).host
        return Peer(host, args.bootstrap_port, parse_url(args.decode_url))
    if args.bootstrap_host is None and args.bootstrap_port is None:
        return None
    if args.bootstrap_host == "none":
        if args.bootstrap_port is not None:
            raise UsageError("--bootstrap-port means nothing with --bootstrap-host none")
        return Peer(None)
    return Peer(args.bootstrap_host or FAKE_HOST, args.bootstrap_port)


def _bounds(args: argparse.Namespace) -> Bounds:
    return Bounds(
        num_repeats=args.repeats,
        precision=args.precision,
        max_repeats=args.max_repeats,
        max_requests=args.max_requests,
        max_duration=args.max_duration,
        timeout=args.timeout,
        connect_timeout=args.connect_timeout,
        pause=args.pause_ms / 1e3,
        wait=args.wait,
    )
