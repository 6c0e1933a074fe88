-- Which plan an apply carries out, so that whoever asked for it can follow it; and what the last look for drift found.

alter table catalogue_apply add column plan text;
alter table catalogue_apply add column settled boolean not null default false; -- it, or a later apply, brought everything to an end
create index catalogue_apply_by_start on catalogue_apply (started_at);

alter table catalogue_version add column created json not null default '{}'; -- id at Stripe -> what it is, of what came into being for it

create table catalogue_drift (
    only_row boolean primary key default true check (only_row),
    checked_at timestamptz not null default now(), -- wall time: what happens outside happens by the wall clock
    claimed_at timestamptz not null default now(), -- when a replica began to look
    version integer not null,
    findings jsonb not null
);

update catalogue_apply set settled = true where state = 'done';
insert into catalogue_drift(checked_at, claimed_at, version, findings)
select 'epoch', 'epoch', max(version), '[]' from catalogue_version having count(*) > 0;
