-- Changes of plan: what a subscription is going to, since when it is on what, and what of its usage is settled.

alter table subscription add column plan_since timestamptz;  -- null: still on what it began with
alter table subscription add column ends boolean not null default false;  -- cancelled, and running until its period ends
alter table subscription add column cancellation text check (cancellation in ('now', 'period_end'));  -- as it was asked for

create table plan_change (
    change_id text primary key,
    subscription_id text not null references subscription,
    account_id text not null,
    asked_by text not null check (asked_by in ('customer', 'provider')),
    timing text not null check (timing in ('now', 'period_end')),
    from_product_id text not null,
    from_catalogue_version integer not null,
    product_id text not null,
    catalogue_version integer not null,
    -- asked: a call to Stripe is on its way; closing: usage is being closed first; made: at Stripe, the old usage still to be billed
    state text not null check (state in ('asked', 'closing', 'scheduled', 'made', 'done', 'failed', 'withdrawn')),
    revision integer not null default 0, -- of the last thing that was announced
    effective_at timestamptz not null,
    settled_start timestamptz, -- of the old plan's last segment, when its usage is at Stripe
    settled_end timestamptz,
    then_cancel boolean not null default false, -- a cancellation waits for the old usage
    reason text,
    requested_at timestamptz not null,
    ended_at timestamptz
);
create unique index plan_change_open on plan_change (subscription_id) where state in ('asked', 'closing', 'scheduled', 'made');
create index plan_change_by_account on plan_change (account_id, product_id) where state in ('asked', 'closing', 'scheduled', 'made');

-- Since when a subscription is on which plan: usage that is settled later still belongs to the plan of its time.
create table plan_stay (
    subscription_id text not null,
    since timestamptz not null,
    product_id text not null,
    catalogue_version integer not null,
    revision integer not null,
    primary key (subscription_id, since)
);
insert into plan_stay
select subscription_id, started_at, product_id, catalogue_version, revision from subscription where started_at is not null and revision > 0;

create table settled_segment (
    subscription_id text not null,
    segment_start timestamptz not null,
    segment_end timestamptz not null,
    totals jsonb not null,
    primary key (subscription_id, segment_start)
);
