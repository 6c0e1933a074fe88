-- Changes of plan: what was asked for here, or by the provider, and where it stands; and since when a subscription is on which plan.

create table plan_changes (
    change_id text primary key, -- event id of the request
    subscription_id text not null,
    user_id text, -- null: the provider asked
    product_id text not null,
    catalogue_version integer,
    timing text check (timing in ('now', 'period_end')), -- as it was asked for here
    state text not null check (state in ('requested', 'scheduled', 'closing', 'made', 'failed', 'withdrawn')),
    revision integer not null default 0,
    effective_at timestamptz,
    reason text,
    requested_at timestamptz not null,
    withdrawal_asked boolean not null default false
);
create index plan_changes_subscription on plan_changes (subscription_id, requested_at desc);
create unique index plan_changes_open on plan_changes (subscription_id)
    where user_id is not null and state in ('requested', 'scheduled', 'closing');

create table plan_stays (
    subscription_id text not null,
    since timestamptz not null,
    product_id text not null,
    catalogue_version integer not null,
    revision integer not null,
    primary key (subscription_id, since)
);
insert into plan_stays
select s.subscription_id, s.started_at, r.product_id, r.catalogue_version, s.revision
from subscriptions s join requests r using (subscription_id);
