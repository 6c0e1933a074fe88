-- Drafts at a period's end: one whose usage is not all at Stripe is held open until it is.
create table draft (
    invoice_id text primary key,
    subscription_id text not null,
    account_id text not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    finalizes_at timestamptz not null,  -- when Stripe makes it final if nobody holds it (business time)
    -- holding, releasing: the call to Stripe is on its way; refused: Stripe does not let it be held
    state text not null default 'open' check (state in ('open', 'holding', 'held', 'releasing', 'released', 'refused', 'final')),
    held_at timestamptz  -- business time
);
create index draft_to_watch on draft (finalizes_at) where state in ('open', 'held', 'releasing');
