-- What checkout owns: applied catalogues, accounts as Stripe customers, subscriptions it started, sessions, and calls to Stripe to be made.
-- json, not jsonb, where the order of names matters.

create table catalogue_version (
    version integer primary key check (version >= 1),
    document json not null,
    stripe_ids json not null,
    steps json not null,
    applied_by text not null,
    applied_at timestamptz not null
);

-- One row per apply: written before anything outside is touched, closed with how it went.
create table catalogue_apply (
    apply_id uuid primary key,
    digest text not null,
    requested_by text not null,
    started_at timestamptz not null,
    ended_at timestamptz,
    state text not null default 'running' check (state in ('running', 'done', 'failed')),
    done jsonb not null default '[]',
    remaining jsonb not null default '[]',
    error text
);

create table account (
    account_id text primary key,
    stripe_customer_id text unique,
    customer_attempt integer not null default 0,
    payment_method_id text,
    payment_method_revision integer not null default 0,
    payment_method_changed_at timestamptz,
    closed_at timestamptz
);

create table account_member (
    account_id text not null references account,
    user_id text not null,
    primary key (account_id, user_id)
);

create table subscription (
    subscription_id text primary key,
    account_id text not null references account,
    user_id text not null,
    product_id text not null,
    catalogue_version integer not null,
    display_name text not null,
    currency text not null,
    free boolean not null,
    state text not null check (state in ('requested', 'live', 'ended')),
    revision integer not null default 0,
    status text,
    started_at timestamptz,
    ended_at timestamptz,
    stripe_subscription_id text,
    requested_at timestamptz not null
);
create index subscription_by_account on subscription (account_id, product_id);
create unique index subscription_by_stripe_id on subscription (stripe_subscription_id) where stripe_subscription_id is not null;

create table checkout_session (
    subscription_id text not null references subscription,
    attempt integer not null,
    idempotency_key text not null unique,
    session_id text unique,
    url text,
    expires_at timestamptz,
    status text not null default 'creating' check (status in ('creating', 'open', 'complete', 'expired')),
    primary key (subscription_id, attempt)
);

create table invoice (
    invoice_id text primary key,
    subscription_id text not null,
    account_id text not null,
    stripe_customer_id text not null,
    revision integer not null,
    status text not null,
    amount_remaining_minor bigint not null
);
create index invoice_open_by_account on invoice (account_id) where status = 'open';

-- A call to Stripe that must be made: stored in the transaction that decided on it, made afterwards, repeated until it has an outcome.
create table intent (
    id bigint generated always as identity primary key,
    intent_id uuid not null unique, -- derived from its cause; also the idempotency key
    kind text not null,
    key text not null, -- intents of one key are carried out in order
    parameters jsonb not null,
    state text not null default 'pending' check (state in ('pending', 'done', 'refused')),
    attempts integer not null default 0,
    generation integer not null default 0, -- grows when Stripe keeps repeating a stored 500 for the old idempotency key
    due_at timestamptz not null default now(), -- wall time
    error text,
    created_at timestamptz not null default now(),
    ended_at timestamptz
);
create index intent_pending on intent (key, id) where state = 'pending';

create function intent_notify() returns trigger language plpgsql as
$$ begin perform pg_notify(tg_table_schema || '.intent', ''); return null; end $$;
create trigger intent_notify after insert on intent for each statement execute function intent_notify();
