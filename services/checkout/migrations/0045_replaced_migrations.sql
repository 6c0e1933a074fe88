-- A migration that the provider planned gives way to the customer's own change, and is planned again when that comes to nothing.

alter table plan_change add column replaced_by text; -- the customer's change
create index plan_change_replaced on plan_change (replaced_by) where replaced_by is not null;
