"""The catalogue, quotes and Stripe Checkout sessions."""
