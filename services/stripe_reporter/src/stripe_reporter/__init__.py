"""The ledger of usage sent to Stripe."""
