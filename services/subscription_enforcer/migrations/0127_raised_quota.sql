-- A quota that was used up stops calls no longer where a newer version of the plan has a larger one, or none.
alter table plan add column quota bigint; -- of which the end stops calls; 0: there is none; null: kept before this was
alter table access add column hard_stop_limit bigint; -- of the quota that was used up; null: not told
