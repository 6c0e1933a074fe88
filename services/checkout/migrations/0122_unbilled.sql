-- Usage that a final invoice does not bill stands beside the corrections (kind `unbilled`): what the plan's policy, or a person, made of it.
alter table correction_charge
    add column disposition text not null default 'bill' check (disposition in ('bill', 'waive', 'keep')),
    add column decided_by text,     -- null: as the plan says
    add column of_invoice text;     -- of kind `unbilled`: the invoice that does not bill it
create index correction_charge_unbilled on correction_charge (number) where kind = 'unbilled';
