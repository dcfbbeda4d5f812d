"""The load client: sends prompts to a prefill engine at planned times and writes what came of them.

Not named after its command, ``load``: :func:`pdtrace.load` is the function that reads a run.
"""
