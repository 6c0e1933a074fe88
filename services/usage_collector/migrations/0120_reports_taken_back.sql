-- What of an hour the count of reports covers, so that a later change of its segments tells whether it has to be read again.
alter table report_bucket add column counted_from timestamptz;  -- null: counted before this was kept
alter table report_bucket add column counted_until timestamptz; -- null: to the end of the hour
alter table report_bucket add column reading integer not null default 0; -- how often it was taken back: a new reading has new event ids
-- From where segments have changed since a round of reading began: the next one begins there.
alter table report_progress add column again_from timestamptz;
