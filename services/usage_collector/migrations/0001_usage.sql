-- What was counted, for whom, and what is still to be said about it.

-- Each change of who-has-which-segment takes the next number; the collectors' caches read what is newer than what they have.
create sequence directory_version;
create type usage_outcome as enum ('counted', 'filtered', 'rejected', 'held');
create type usage_origin as enum ('stream', 'ingest', 'reports');

create table catalogue_version (
    version integer primary key,
    document text not null,
    applied_at timestamptz not null default now()
);

create table subscription (
    subscription_id text primary key,
    account_id text not null,
    cut_at timestamptz,                       -- calls are refused from here on: no segment goes beyond
    started_at timestamptz,
    ended_at timestamptz,
    reported boolean not null default true,   -- false: a free product, nothing at Stripe
    version bigint not null default nextval('directory_version'),
    unsettled boolean not null default false  -- held events may have found their place
);
create index subscription_version on subscription (version);
create index subscription_unsettled on subscription (subscription_id) where unsettled;

create table subscription_key (
    sid text primary key,
    subscription_id text not null
);
create index subscription_key_subscription on subscription_key (subscription_id);

-- Every revision of a subscription that was seen. Segments are derived from all of them, so their order of arrival does not matter.
create table subscription_fact (
    subscription_id text not null,
    revision integer not null,
    occurred_at timestamptz not null,
    product_id text not null,
    catalogue_version integer not null,
    period_start timestamptz not null,
    period_end timestamptz,
    ended_at timestamptz,
    primary key (subscription_id, revision)
);

create table segment (
    id bigint generated always as identity primary key,
    subscription_id text not null,
    account_id text not null,
    started_at timestamptz not null,
    ended_at timestamptz,                     -- may lie ahead; null: open-ended
    product_id text not null,
    catalogue_version integer not null,
    reason text not null,
    closing_since timestamptz,                -- wall time at which its end was noticed: stragglers get their grace from here
    closed_at timestamptz,                    -- business time at which its totals became final
    unique (subscription_id, started_at)
);
create index segment_open on segment (ended_at) where closed_at is null;

-- One row per distinct event: which of counted, filtered, rejected, held it is in, and all that is needed to decide again.
create table usage_event (
    day date not null,                        -- UTC day of the event's time: part of its identity
    id uuid not null,                         -- uuid5 of source, the sender's id and the day
    at timestamptz not null,
    segment_id bigint,
    counted bigint not null,
    quantity bigint not null,
    status smallint,
    outcome usage_outcome not null,           -- each distinct event is in exactly one
    origin usage_origin not null,
    source text not null,
    external_id text not null,
    sid text not null,
    method text,
    template text,
    stated_meter text,
    meter_id text,
    reason text,
    properties text,
    primary key (id, day)
) partition by range (day);
create index usage_event_at on usage_event using brin (at) with (pages_per_range = 32, autosummarize = on);

-- The further meters of an event that counts for more than one.
create table usage_event_meter (
    day date not null,
    id uuid not null,
    meter_id text not null,
    counted bigint not null,
    primary key (day, id, meter_id)
);

create table held_event (
    sid text not null,
    day date not null,
    id uuid not null,
    primary key (sid, day, id)
);

-- Events whose time is outside of what is taken: they have no day of ours to stand in.
create table refused_event (
    id uuid primary key,
    at timestamptz not null,
    origin usage_origin not null,
    source text not null,
    external_id text not null,
    sid text not null,
    reason text not null,
    received_at timestamptz not null
);
create index refused_event_sid on refused_event (sid, at);
create index refused_event_received_at on refused_event (received_at);

create table duplicate_count (
    sid text not null,
    day date not null,
    origin usage_origin not null,
    events bigint not null,
    primary key (sid, day, origin)
);

create table usage_window (
    segment_id bigint not null,
    meter_id text not null,
    hour timestamptz not null,
    quantity bigint not null,
    events bigint not null,
    revision integer not null,
    dirty boolean not null,                   -- has something that usage.collected has not said yet
    primary key (segment_id, meter_id, hour)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index usage_window_dirty on usage_window (segment_id) where dirty;

create table sender (
    id text primary key,
    name text not null,
    key_sha256 bytea not null,
    source_prefix text not null,
    subscriptions text[],                     -- null: all
    created_at timestamptz not null,
    created_by text not null,
    revoked_at timestamptz
);

-- How much of each bucket of API Management's reports has been counted, and how far the reports were read.
create table report_bucket (
    sid text not null,
    bucket timestamptz not null,
    calls bigint not null,
    primary key (sid, bucket)
);
create table report_progress (
    only_row boolean primary key default true check (only_row),
    read_until timestamptz not null
);
