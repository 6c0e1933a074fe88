-- When the quota that was used up begins anew; null for those that were told before it was said.

alter table access add column hard_stop_until timestamptz;
