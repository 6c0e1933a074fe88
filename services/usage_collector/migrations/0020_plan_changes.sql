-- Changes of plan whose usage is closed before they are made, and thresholds of each plan on its own.

create table plan_cut (
    change_id text primary key,
    subscription_id text not null,
    revision integer not null,
    cut_at timestamptz not null,              -- usage from here on belongs to the new plan
    product_id text not null,
    catalogue_version integer not null,
    failed boolean not null default false     -- the subscription stays on the old plan
);
create index plan_cut_subscription on plan_cut (subscription_id);

alter table subscription_fact add column plan_since timestamptz;

-- The earliest second that the meter events of a segment may carry: Stripe divides usage where it makes a change. Null: the segment's start.
alter table segment add column stamped_from timestamptz;

alter table threshold_reached add column product_id text not null default '';
update threshold_reached t set product_id = coalesce(
    (select s.product_id from segment s where s.subscription_id = t.subscription_id order by s.started_at desc limit 1), '');
alter table threshold_reached drop constraint threshold_reached_pkey;
alter table threshold_reached add primary key (subscription_id, period_start, meter_id, product_id, threshold);
