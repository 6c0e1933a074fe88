-- Which meters a sender's key may name; null: all, and none at all.
alter table sender add column meters text[];
