"""The HTTP API: Cekura-compatible routes, and those the workers report to."""
