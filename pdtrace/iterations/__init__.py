"""Events → iterations and rank passes: by printed label, or by time under lock-step constraints."""

from pdtrace.iterations.build import build_run

__all__ = ["build_run"]
