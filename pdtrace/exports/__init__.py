"""What leaves pdtrace as text or files: report, summary, tables, traces."""
