-- What was asked for here, and what the other services have said about it since.

create table catalogues (
    version integer primary key,
    document jsonb not null,
    applied_at timestamptz not null
);

create table requests (
    subscription_id text primary key,
    link_id text unique, -- of the delegation link that was used: links of the portal work once
    form_id text, -- of the page: a double click repeats the same form
    account_id text not null,
    user_id text not null,
    product_id text not null,
    catalogue_version integer not null,
    display_name text not null,
    currency text,
    requested_at timestamptz not null,
    state text not null default 'requested' check (state in ('requested', 'expired', 'failed', 'live', 'ended')),
    reason text
);
create index requests_account on requests (account_id, requested_at desc);
-- One live subscription per account and product; more keys, not more subscriptions.
create unique index requests_one_per_product on requests (account_id, product_id) where state in ('requested', 'live');

create table subscriptions (
    subscription_id text primary key,
    revision integer not null,
    status text not null,
    currency text not null,
    started_at timestamptz not null,
    current_period_start timestamptz not null,
    current_period_end timestamptz,
    cancel_at_period_end boolean not null,
    cancel_at timestamptz,
    ended_at timestamptz,
    is_at_stripe boolean not null
);

create table cancellations (
    subscription_id text primary key,
    user_id text not null,
    timing text not null check (timing in ('now', 'period_end')),
    requested_at timestamptz not null
);

create table access (
    subscription_id text primary key,
    revision integer not null,
    state text not null check (state in ('active', 'suspended', 'revoked')),
    sid text not null,
    reason text not null,
    effective_at timestamptz not null
);
create index access_sid on access (sid);

create table usage_windows (
    subscription_id text not null,
    meter_id text not null,
    segment_start timestamptz not null,
    hour timestamptz not null,
    occurred_at timestamptz not null, -- max(hour, segment start): which period the window belongs to
    quantity bigint not null,
    revision integer not null,
    updated_at timestamptz not null,
    primary key (subscription_id, meter_id, segment_start, hour)
);

create table invoices (
    invoice_id text primary key,
    subscription_id text not null,
    account_id text not null,
    revision integer not null,
    number text,
    status text not null,
    currency text not null,
    total_minor bigint not null,
    remaining_minor bigint not null,
    attempt_count integer not null,
    next_payment_attempt timestamptz,
    period_start timestamptz not null,
    period_end timestamptz not null,
    created_at timestamptz not null
);
create index invoices_subscription on invoices (subscription_id, created_at desc);
