"""Usage events in, hourly running totals out."""
