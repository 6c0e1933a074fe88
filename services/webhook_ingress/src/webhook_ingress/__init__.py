"""Stripe webhooks in, revisions of Stripe objects out."""
