-- The reporter's memory: what was counted, what was sent to Stripe, and what Stripe said.
-- Times of windows, segments and periods are business time; times of sending, leases and retries are wall time.

create table subscription (
    subscription_id text primary key,
    account_id text not null,
    product_id text not null,
    stripe_customer_id text,
    stripe_subscription_id text,
    status text not null,
    current_period_start timestamptz not null,
    current_period_end timestamptz,
    revision integer not null
);

create table catalogue (version integer primary key);

-- A priced meter of a product has a Stripe meter of its own. A meter that is not here is not billed.
create table stripe_meter (
    catalogue_version integer not null references catalogue (version),
    product_id text not null,
    meter_id text not null,
    stripe_meter_id text not null,
    event_name text not null,
    primary key (catalogue_version, product_id, meter_id)
);

-- recorded = sum of the ledger; what is neither acknowledged nor rejected of it is in flight; total - recorded is not sent yet.
create table usage_window (
    window_id uuid primary key,
    subscription_id text not null,
    account_id text not null,
    product_id text not null,
    catalogue_version integer not null,
    meter_id text not null,
    segment_start timestamptz not null,
    hour timestamptz not null,
    event_time timestamptz not null,
    total bigint not null,
    revision integer not null,
    recorded bigint not null default 0,
    acknowledged bigint not null default 0,
    rejected bigint not null default 0,
    billable boolean,
    due_at timestamptz
) with (fillfactor = 80);
create index usage_window_due on usage_window (due_at) where due_at is not null;
create index usage_window_segment on usage_window (subscription_id, segment_start);

create table ledger (
    identifier uuid primary key,
    window_id uuid not null references usage_window (window_id),
    stripe_customer_id text not null,
    event_name text not null,
    stripe_meter_id text not null,
    event_time timestamptz not null,
    revision integer not null,
    quantity bigint not null check (quantity <> 0),
    state text not null default 'intent' check (state in ('intent', 'sent', 'unknown', 'acknowledged', 'rejected')),
    credited bigint,
    attempts integer not null default 0,
    failed_answers integer not null default 0,
    created_at timestamptz not null,
    first_sent_at timestamptz,
    answered_at timestamptz,
    code text,
    request_id text,
    note text
) with (fillfactor = 80);
create index ledger_open on ledger (stripe_customer_id, event_name, created_at) where state in ('intent', 'sent', 'unknown');
create index ledger_rejected on ledger (window_id) where state = 'rejected';
create index ledger_hour on ledger (stripe_customer_id, event_name, event_time);

-- Stripe takes one call at a time per customer and meter: whoever holds the lease sends.
create table lane (
    stripe_customer_id text not null,
    event_name text not null,
    open boolean not null,
    failures integer not null default 0,
    retry_at timestamptz not null,
    lease_owner text,
    lease_until timestamptz,
    primary key (stripe_customer_id, event_name)
) with (fillfactor = 80);
create index lane_open on lane (retry_at) where open;

create table segment (
    subscription_id text not null,
    account_id text not null,
    segment_start timestamptz not null,
    segment_end timestamptz not null,
    reason text not null,
    totals jsonb not null,
    event_id uuid not null,
    closed_at timestamptz not null,
    received_at timestamptz not null,
    checked_at timestamptz,
    state text not null default 'waiting' check (state in ('waiting', 'parked', 'settled')),
    waiting_for text not null default 'its first check',
    settled_at timestamptz,
    primary key (subscription_id, segment_start)
);
create index segment_unsettled on segment (checked_at nulls first) where settled_at is null;

create table period_close (
    invoice_id text primary key,
    subscription_id text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    finalizes_at timestamptz not null,
    revision integer not null,
    complete_at timestamptz
);
create index period_close_open on period_close (finalizes_at) where complete_at is null;
