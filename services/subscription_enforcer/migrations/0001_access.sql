-- What is known of a subscription, what access it should have, and what was last applied at API Management.
create table access (
    subscription_id text primary key,
    account_id text not null,
    user_id text not null default '',
    product_id text not null default '',
    display_name text not null default '',
    status text,
    revision bigint not null default 0,
    started_at timestamptz,
    current_period_start timestamptz,
    current_period_end timestamptz,
    cancellation_requested boolean not null default false,
    hard_stop_period timestamptz,

    desired text check (desired in ('granted', 'suspended', 'revoked')),
    desired_reason text not null default '',
    desired_at timestamptz,
    reconsider_at timestamptz, -- business time

    applied text check (applied in ('granted', 'suspended', 'revoked')),
    applied_reason text not null default '',
    applied_product_id text not null default '',
    applied_revision bigint not null default 0,
    effective_at timestamptz, -- business time

    -- An intent without its outcome: whether API Management did it is not known, so it is done again.
    intent uuid,
    tries integer not null default 0,
    retry_at timestamptz not null default now(),
    last_error text not null default '',
    held boolean not null default false, -- by the breaker: too many suspensions in an hour
    approved_by text,
    changed_at timestamptz not null default now(),

    -- Without a key there is nothing to suspend, except that an ending needs its answer.
    pending boolean not null generated always as (
        intent is not null
        or (
            desired is not null
            and (desired, desired_reason, product_id) is distinct from (applied, applied_reason, applied_product_id)
            and not (applied is null and desired = 'suspended' and desired_reason <> 'cancellation')
        )
    ) stored
);
create index access_pending on access (desired_at) where pending;
create index access_reconsider on access (reconsider_at) where reconsider_at is not null;
create index access_live on access (subscription_id) where applied in ('granted', 'suspended');

-- Every change as it was applied.
create table access_change (
    subscription_id text not null references access,
    revision bigint not null,
    access text not null,
    reason text not null,
    product_id text not null,
    effective_at timestamptz not null,
    primary key (subscription_id, revision)
);
create index access_change_payment_suspension on access_change (effective_at) where access = 'suspended' and reason = 'payment_failed';
