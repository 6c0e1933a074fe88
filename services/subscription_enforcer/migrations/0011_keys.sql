-- Keys beside the first: each is a subscription of its own at API Management, and goes with the subscription it belongs to.

create table access_key (
    sid text primary key,
    subscription_id text not null references access,
    number integer not null,
    name text not null,
    revoked boolean not null
);
create index access_key_subscription on access_key (subscription_id, number);

alter table plan add column keys integer not null default 100; -- versions from before: whatever the page allowed

alter table access
    add column keys_revision integer not null default 0,
    add column desired_keys jsonb not null default '{}', -- sid -> active, suspended or cancelled
    add column applied_keys jsonb not null default '{}';

alter table access drop column pending;
alter table access add column pending boolean not null generated always as (
    intent is not null
    or (
        desired is not null
        and (desired, desired_reason, product_id) is distinct from (applied, applied_reason, applied_product_id)
        and not (applied is null and desired = 'suspended' and desired_reason <> 'cancellation')
    )
    or (applied is not null and desired_keys <> applied_keys)
) stored;
create index access_pending on access (desired_at) where pending;
