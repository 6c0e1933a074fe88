-- Events added up by hour, key, endpoint and what became of them: what pages, explanations and reconciliation read instead of the events.

create table usage_rollup (
    hour timestamptz not null,
    sid text not null,
    segment_id bigint,
    origin usage_origin not null,
    outcome usage_outcome not null,
    reason text not null,                     -- empty: counted
    method text not null,                     -- empty: not a call
    template text not null,
    status smallint not null,                 -- 0: none
    meter_id text not null,                   -- empty: counts for none
    is_further boolean not null,              -- a meter beyond an event's first: its events stand in another row already
    events bigint not null,
    quantity bigint not null
);
create index usage_rollup_sid on usage_rollup (sid, hour);
create index usage_rollup_hour on usage_rollup (hour);

-- Hours whose events are not what the roll-up says: one row for each transaction that changed some. They are read from the events until then.
create table changed_hour (
    number bigint generated always as identity primary key,
    hour timestamptz not null
);
create index changed_hour_hour on changed_hour (hour);

alter table subscription add column currency text; -- null until the next state of it comes: the catalogue's default then

insert into changed_hour (hour) select distinct date_trunc('hour', at, 'UTC') from usage_event;
