-- What the applied catalogues say of access, and since when a subscription is unpaid: its grace begins there.
create table plan (
    catalogue_version integer not null,
    product_id text not null,
    dunning_grace_days integer not null,
    primary key (catalogue_version, product_id)
);
alter table access
    add column catalogue_version integer not null default 0,
    add column unpaid_since timestamptz; -- business time at which one heard of it
-- What was unpaid before this migration has been suspended already.
update access set unpaid_since = desired_at where status = 'unpaid';
