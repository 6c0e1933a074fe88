-- The tables behind "one handler, one transaction": who has claimed which event, and what waits to be published.

create table inbox (
    event_id uuid not null,
    consumer text not null,
    claimed_at timestamptz not null default now(),
    primary key (event_id, consumer)
);
create index inbox_claimed_at on inbox (claimed_at);

create table outbox (
    id bigint generated always as identity primary key,
    shard smallint not null,
    topic text not null,
    key text not null,
    value bytea not null,
    headers text not null,
    created_at timestamptz not null default now()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0, fillfactor = 90);
create index outbox_shard_id on outbox (shard, id);

create table outbox_dead (
    id bigint primary key,
    topic text not null,
    key text not null,
    value bytea not null,
    headers text not null,
    created_at timestamptz not null,
    error text not null,
    died_at timestamptz not null default now()
);

create function outbox_notify() returns trigger language plpgsql as
$$ begin perform pg_notify(tg_table_schema || '.outbox', ''); return null; end $$;
create trigger outbox_notify after insert on outbox for each statement execute function outbox_notify();

-- Dead letters that a person has sent again: the topic itself keeps the originals.
create table requeued_dead_letter (
    record_partition integer not null,
    record_offset bigint not null,
    requeued_at timestamptz not null default now(),
    requeued_by text not null,
    primary key (record_partition, record_offset)
);
