-- Windows whose total was published while their thresholds could not be looked at: they are looked at again.
create table threshold_again (
    segment_id bigint not null,
    meter_id text not null,
    hour timestamptz not null,
    primary key (segment_id, meter_id, hour)
);
