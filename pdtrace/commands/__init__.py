"""The verbs of the command line: one module each, its docstring is the help.

A module offers ``add_arguments(parser)`` and ``run(args) -> int``; imports of anything that is slow
to import stand inside ``run``.
"""
