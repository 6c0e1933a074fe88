-- Usage that came after its segment was closed, and what becomes of it.

create table late_segment (
    segment_id bigint primary key,
    disposition text check (disposition in ('bill', 'waive', 'keep')), -- null: as the plan says, not looked at yet
    decided_by text,                          -- a person, where one has decided otherwise than the plan
    pending boolean not null default true     -- events have come that were not looked at
);
create index late_segment_pending on late_segment (segment_id) where pending;

-- Windows of a closed segment stand. What came late is added up beside them.
create table late_usage (
    segment_id bigint not null,
    meter_id text not null,
    hour timestamptz not null,
    disposition text not null check (disposition in ('billed', 'waived')),
    quantity bigint not null,
    events bigint not null,
    primary key (segment_id, meter_id, hour, disposition)
);

insert into late_segment (segment_id)
select distinct e.segment_id from held_event h join usage_event e on e.day = h.day and e.id = h.id
where e.reason = 'late' and e.segment_id is not null;
