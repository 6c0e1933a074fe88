-- Whose quota was used up: another plan has another one. Empty for those that were told before it was said.

alter table access add column hard_stop_product text not null default '';
