"""What is simulated, and how much of it the engine is told to write down."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from pdtrace.errors import UsageError
from pdtrace.simulate.records import EngineSettings

MODEL = "/models/simulated"
MAX_DP_SIZE = 256
OLDEST, NEWEST = (0, 5, 12), (0, 5, 23)
_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(\.post\d{1,4})?", re.ASCII)


def parse_release(text: str) -> tuple[int, int, int]:
    """A release whose formats can be written.

    Raises:
        UsageError: No release, or one that prints otherwise.
    """
    match = _RELEASE.fullmatch(text)
    if match is None:
        raise UsageError(f"--engine-version {text!r}: expected one like 0.5.13")
    release = (int(match[1]), int(match[2]), int(match[3]))
    if not OLDEST <= release <= NEWEST:
        raise UsageError(
            f"--engine-version {text}: formats of 0.5.12 to 0.5.23 can be written; earlier ones"
            " label or print their lines otherwise"
        )
    return release


@dataclass(frozen=True)
class Logging:
    """What the engine writes down, by its environment variables and flags.

    Attributes:
        has_labels: ``SGLANG_LOG_FORWARD_ITERS``.
        has_milliseconds: ``SGLANG_LOG_MS``.
        has_debug_lines: ``SGLANG_PREFILL_DELAYER_DEBUG_LOG``.
        has_time_stats: ``--enable-request-time-stats-logging``.
    """

    has_labels: bool = True
    has_milliseconds: bool = True
    has_debug_lines: bool = True
    has_time_stats: bool = True


@dataclass(frozen=True)
class Launch:
    """An engine start.

    Attributes:
        engine: Settings of the scheduler.
        version: Release, as text.
        logging: What it writes down.
        seed: Of the run; printed as the engine's own.
        host, port: Where it is served.
        load_balance_method: Who chooses the rank of a request that names none.
        context_len: Longest prompt, tokens.
        otlp_endpoint: Where its spans are sent.
    """

    engine: EngineSettings
    version: str
    logging: Logging = field(default_factory=Logging)
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 30000
    load_balance_method: str = "follow_bootstrap_room"
    context_len: int = 40960
    otlp_endpoint: str = "127.0.0.1:4317"

    @property
    def url(self) -> str:
        """Where it is served, as a URL."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def release(self) -> tuple[int, int, int]:
        """The release as numbers."""
        return parse_release(self.version)

    def list_server_args(self) -> dict[str, Any]:
        """The server arguments that matter here, resolved as the release prints them."""
        engine = self.engine
        has_attn_dp = self.release >= (0, 5, 22)
        args: dict[str, Any] = {
            "model_path": MODEL,
            "tokenizer_path": MODEL,
            "skip_tokenizer_init": False,
            "load_format": "dummy",
            "host": self.host,
            "port": self.port,
            "max_running_requests": None,
            "chunked_prefill_size": engine.chunk,
            "max_prefill_tokens": 16384,
            "prefill_max_requests": None,
            "schedule_policy": "fcfs",
            "page_size": 1,
            "enable_prefill_delayer": engine.max_delay_passes is not None,
            "prefill_delayer_max_delay_passes": 30
            if engine.max_delay_passes is None
            else engine.max_delay_passes,
            "prefill_delayer_token_usage_low_watermark": engine.token_usage_low_watermark,
            "prefill_delayer_queue_min_ratio": None,
            "prefill_delayer_max_delay_ms": None,
            "device": "cuda",
            "tp_size": engine.dp_size,
            "pp_size": 1,
            "random_seed": self.seed,
            "log_level": "info",
            "enable_metrics": True,
            "enable_request_time_stats_logging": self.logging.has_time_stats,
            "enable_forward_pass_metrics": False,
            "enable_trace": True,
            "otlp_traces_endpoint": self.otlp_endpoint,
            "dp_size": 1 if has_attn_dp else engine.dp_size,
            "load_balance_method": self.load_balance_method,
            "ep_size": engine.dp_size,
            "disable_radix_cache": True,
            "disable_cuda_graph": True,
            "disable_overlap_schedule": False,
            "enable_dp_attention": engine.dp_size > 1,
            "disaggregation_mode": "prefill",
            "disaggregation_transfer_backend": "fake",
        }
        if has_attn_dp:
            args["attn_dp_size"] = engine.dp_size
        return args

    def describe_server(self) -> dict[str, Any]:
        """What the engine says of itself over HTTP."""
        engine = self.engine
        pool = int(engine.pool) if math.isfinite(engine.pool) else None
        state = {"effective_max_running_requests_per_dp": engine.max_running_requests}
        return self.list_server_args() | {
            "status": "ready",
            "simulated": True,
            "max_total_num_tokens": pool,
            "max_req_input_len": self.context_len - 1,
            "internal_states": [dict(state) for _ in range(engine.dp_size)],
            "version": self.version,
        }
