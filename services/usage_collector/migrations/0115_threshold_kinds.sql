-- Tiers are announced beside shares: the second tier is not the same threshold as two times the quota.
alter table threshold_reached add column kind text not null default 'allowance';
alter table threshold_reached drop constraint threshold_reached_pkey;
alter table threshold_reached add primary key (subscription_id, period_start, meter_id, product_id, kind, threshold);
