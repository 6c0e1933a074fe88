-- A version of the catalogue that sells at this price: an invoice without any usage has no windows that say under which one it was made.
-- A price has the fingerprint of its amounts, so all versions that share it agree. Null: known before; the subscription's own version then.
alter table stripe_price add column catalogue_version integer;
