-- Whose usage a closed segment holds, as the collector says; null for segments closed before it said so.

alter table segment add column product_id text, add column catalogue_version integer;
