"""Observability and trace analysis for LLM prefill engines with DP attention."""
