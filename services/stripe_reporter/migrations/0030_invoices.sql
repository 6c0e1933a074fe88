-- What stands on Stripe's invoices, and what is needed to say why.

alter table catalogue add column document jsonb;          -- null: applied before this column was there
create table stripe_price (
    price_id text primary key,
    product_id text not null,
    component text not null                               -- base, setup, unit or usage:<meter>
);
alter table subscription add column started_at timestamptz;
alter table subscription add column currency text;
alter table subscription add column catalogue_version integer;

create table invoice (
    invoice_id text primary key,
    subscription_id text not null,
    account_id text not null,
    revision integer not null,
    number text,
    status text not null,
    billing_reason text not null,
    currency text not null,
    total_minor bigint not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    created_at timestamptz not null,
    final_at timestamptz                                  -- business time at which it was first heard to be no draft
);
create index invoice_subscription on invoice (subscription_id, created_at);
create index invoice_number on invoice (number) where number is not null;

create table invoice_line (
    invoice_id text not null references invoice on delete cascade,
    place integer not null,
    line_id text not null,
    description text not null,
    amount_minor bigint not null,
    quantity numeric,
    unit_amount_decimal numeric,
    price_id text,
    period_start timestamptz not null,
    period_end timestamptz not null,
    proration boolean not null,
    component text,
    correction_id uuid,
    primary key (invoice_id, place)
);

create index usage_window_time on usage_window (subscription_id, event_time);
