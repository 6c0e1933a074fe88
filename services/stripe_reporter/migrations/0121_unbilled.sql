-- Usage that was counted in time and that its final invoice does not bill: said once for each quantity.
alter table invoice
    add column look_at timestamptz,                 -- wall time of the next look at what it bills; null: a draft, or nothing left to find
    add column looks integer not null default 0;
create index invoice_to_look_at on invoice (look_at) where look_at is not null;

create table unbilled (
    unbilled_id uuid primary key,
    invoice_id text not null references invoice,
    product_id text not null,
    meter_id text not null,
    component text not null,
    period_start timestamptz not null,
    billed bigint not null,     -- by the invoice, with what was said before
    counted bigint not null,
    found_at timestamptz not null, -- business time
    unique (invoice_id, product_id, component, period_start, billed)
);
