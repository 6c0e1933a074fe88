-- Stripe takes values of 15 digits. Sums of all hours of a year of such windows fit into 64 bits; one that does not must stop nobody else.
alter table usage_window add constraint usage_window_fits check (quantity between -999999999999999 and 999999999999999);
