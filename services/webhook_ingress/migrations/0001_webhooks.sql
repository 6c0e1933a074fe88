-- Every event Stripe sent, as it came, and what became of it.
create table webhook_event (
    id text primary key,
    type text not null,
    kind text,
    object_id text,
    stripe_created timestamptz not null,
    source text not null check (source in ('webhook', 'recovery')),
    payload bytea not null,
    received_at timestamptz not null default now(),
    done_at timestamptz,
    outcome text,
    check ((done_at is null) = (outcome is null))
);
create index webhook_event_waiting on webhook_event (kind, object_id, stripe_created, id) where done_at is null;
create index webhook_event_done on webhook_event (done_at) where done_at is not null;
create index webhook_event_created on webhook_event (stripe_created);

-- One row per Stripe object: its last published revision, and the lease of the process that works on it.
create table stripe_object (
    kind text not null,
    id text not null,
    revision bigint not null default 0,
    digest text not null default '',
    wanted_at timestamptz,
    lease uuid,
    leased_until timestamptz,
    tries integer not null default 0,
    retry_at timestamptz not null default now(),
    last_error text not null default '',
    primary key (kind, id)
);
create index stripe_object_wanted on stripe_object (wanted_at) where wanted_at is not null;

-- Whose a Stripe subscription is: for invoices that do not say it themselves.
create table stripe_subscription (
    id text primary key,
    subscription_id text not null,
    account_id text not null
);
