-- Rows that went by Stripe's v2 meter event stream: what it says of them comes late, so they wait until its summary shows them.
alter table ledger add column streamed_at timestamptz;
create index ledger_streamed on ledger (stripe_customer_id, event_name, event_time) where streamed_at is not null and state = 'sent';
create index ledger_fresh on ledger (stripe_customer_id, event_name) where state = 'intent';
