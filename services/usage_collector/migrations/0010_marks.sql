-- Meters whose period has one number: how many different values (unique), or the highest (max).
-- usage_event.counted and the windows of such a meter hold the growth: what an event made the number grow by.

-- Locked by whoever changes the marks of one meter in one period of a segment.
create table meter_state (
    segment_id bigint not null,
    meter_id text not null,
    period_start timestamptz not null,        -- the segment's start; of free products, whose segments have no end: the month's
    primary key (segment_id, meter_id, period_start)
);

-- Each value with the first event that stated it, which carries its growth of one.
create table unique_value (
    segment_id bigint not null,
    meter_id text not null,
    period_start timestamptz not null,
    value uuid not null,                      -- a digest
    at timestamptz not null,
    id uuid not null,
    primary key (segment_id, meter_id, period_start, value)
);
create index unique_value_at on unique_value (segment_id, at);

-- Each event that was higher than all before it; its growth is what it was higher by.
create table max_record (
    segment_id bigint not null,
    meter_id text not null,
    period_start timestamptz not null,
    at timestamptz not null,
    id uuid not null,
    value bigint not null,
    primary key (segment_id, meter_id, period_start, at, id)
);
