"""Measurements, each with the physical limit of the same run beside it. Never part of the tests: machines are noisy."""
