-- For hours and days of many millions of events.

-- Of which keys an hour's events changed; null: of any. An hour that is over is then added up again for those alone.
alter table changed_hour add column sids text[];

-- The further meters of events: dropped day by day, as the events are.
alter table usage_event_meter rename to usage_event_meter_before;
create table usage_event_meter (
    day date not null,
    id uuid not null,
    meter_id text not null,
    counted bigint not null,
    primary key (day, id, meter_id)
) partition by range (day);

do $$
declare
    kept date;
begin
    for kept in
        select to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD') from pg_inherits where inhparent = 'usage_event'::regclass
        union select day from usage_event_meter_before
    loop
        execute format('create table %I partition of usage_event_meter for values from (%L) to (%L)',
            'usage_event_meter_' || to_char(kept, 'YYYYMMDD'), kept, kept + 1);
    end loop;
end $$;

insert into usage_event_meter select * from usage_event_meter_before;
drop table usage_event_meter_before;
