"""A stateful Stripe on a laptop that the real SDK talks to unchanged."""
