-- Differences between the stations of usage that the hourly reconciliation has found, and when it last looked.

create table difference (
    subscription_id text not null,
    account_id text not null,
    day timestamptz not null,
    station text not null,                    -- between which two: gateway-events, events-windows, ...
    product_id text not null,
    meter_id text not null,                   -- empty: of calls, before any meter
    cause text not null,
    explained boolean not null,
    quantity bigint not null,
    amount_minor bigint,
    currency text,
    words text not null,
    first_seen_at timestamptz not null,       -- business time
    last_seen_at timestamptz not null,
    primary key (subscription_id, day, station, product_id, meter_id, cause)
);

create table reconciliation_run (
    only_row boolean primary key default true check (only_row),
    started_at timestamptz not null,          -- wall time
    ended_at timestamptz
);

alter table usage_window add column changed_at timestamptz not null default now(); -- wall time
create index usage_window_changed on usage_window (changed_at);
