-- What the HTTP door refused, added up by sender, subscription, reason and day: bounded, however much is refused.
create table ingest_refusal (
    sender_id text not null,
    subscription_id text not null,            -- as the sender named it; empty where it cannot be read
    reason text not null,
    day date not null,
    events bigint not null,
    last_event_id text,
    last_at timestamptz not null,
    primary key (sender_id, subscription_id, reason, day)
);
create index ingest_refusal_last_at on ingest_refusal (last_at);
create index usage_event_rejected on usage_event (at) where outcome = 'rejected';
