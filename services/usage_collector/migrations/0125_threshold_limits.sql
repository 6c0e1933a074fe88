-- A quota or a spend cap of another amount has thresholds of its own. 0: announced before amounts were kept, and repeated for none.
alter table threshold_reached add column limit_amount bigint not null default 0;
alter table threshold_reached drop constraint threshold_reached_pkey;
alter table threshold_reached add primary key (subscription_id, period_start, meter_id, product_id, kind, threshold, limit_amount);
