-- What came late is settled in pages, each a transaction, and announced as one correction with the last of them.
create table late_unannounced (
    segment_id bigint not null,
    meter_id text not null,
    quantity bigint not null,
    first_id uuid not null,                   -- least of its events: it names the correction
    last_at timestamptz not null,
    primary key (segment_id, meter_id)
);

-- How often events were noted: who has looked at all of them sees whether more have come behind him.
alter table late_segment add column noted bigint not null default 0;
