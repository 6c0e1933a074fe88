-- Which shares of a quota or an included amount were announced: each once, whatever the totals do afterwards.
create table threshold_reached (
    subscription_id text not null,
    period_start timestamptz not null,
    meter_id text not null,
    threshold numeric not null,
    quantity bigint not null,
    reached_at timestamptz not null,
    primary key (subscription_id, period_start, meter_id, threshold)
);
