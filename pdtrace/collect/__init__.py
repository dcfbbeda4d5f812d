"""Records a running engine into a run directory: its spans, its metrics, its forward passes.

``session`` starts and stops the rest: ``grpc_receiver`` and ``http_receiver`` take OTLP and hand
it to ``intake``, which answers only when ``run_directory`` has it; ``messages`` and ``answers`` are
the two directions of the protocol; ``scraper`` asks for metrics, ``subscriber`` listens to
forward-pass metrics; ``tally`` counts what all of them did.
"""
