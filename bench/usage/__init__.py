"""Measurements of usage: from a call or a request to a window, a report and a bill. `make bench-usage` runs them all."""
