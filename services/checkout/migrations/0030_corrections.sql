-- What corrections of closed periods cost or give back, and on which invoice it was put.
create table correction_charge (
    correction_id uuid primary key,
    number bigint generated always as identity, -- the order in which they were made
    intent_id uuid,                           -- null: it changes no amount
    subscription_id text not null,
    kind text not null,
    segment_start timestamptz not null,
    segment_end timestamptz not null,
    totals_before jsonb not null,
    totals_after jsonb not null,
    amount_minor bigint not null,
    currency text not null,
    description text not null,
    made_at timestamptz not null,
    placed text check (placed in ('draft', 'next_invoice', 'own_invoice')),
    invoice_id text                           -- null while it waits for the next invoice
);
create index correction_charge_subscription on correction_charge (subscription_id, made_at);
