-- Keys beside the first that a subscription's owner has asked for. The keys themselves are at API Management only.

create table subscription_keys (
    sid text primary key,
    subscription_id text not null,
    number integer not null,
    name text not null,
    form_id text not null, -- of the page: a double click is the same key
    added_by text not null,
    added_at timestamptz not null,
    revoked_by text,
    revoked_at timestamptz,
    unique (subscription_id, number),
    unique (subscription_id, form_id)
);

-- How often the keys of a subscription were changed: what is announced is all of them, numbered.
create table key_revisions (
    subscription_id text primary key,
    revision integer not null
);

alter table access add column sids text[] not null default '{}'; -- of all keys that are there, as access.* said last
