-- What was changed by a person or came after its segment was closed: who, why, by how much, and where it went.

alter type usage_origin add value 'correction'; -- an adjustment of an open segment stands among its events

create table correction (
    correction_id uuid primary key,           -- derived from what is corrected: the same correction is made once
    number bigint generated always as identity, -- the order in which they were made
    kind text not null check (kind in ('adjustment', 'deletion', 'late')),
    subscription_id text not null,
    segment_id bigint not null,
    hour timestamptz not null,                -- of the window
    at timestamptz not null,                  -- the time of the usage
    amounts jsonb not null,                   -- meter id -> what was added, negative where it was taken away
    after_close boolean not null,             -- the windows stand; the invoice is moved by the difference
    source text,                              -- of a deleted event
    external_id text,
    reason text not null,
    author text not null,
    made_at timestamptz not null              -- business time
);
create index correction_subscription on correction (subscription_id, made_at);
create index correction_segment on correction (segment_id) where after_close;
