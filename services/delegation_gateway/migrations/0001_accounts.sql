-- Who pays and who signs in.

create table accounts (
    account_id text primary key,
    created_at timestamptz not null,
    closed_at timestamptz
);

create table members (
    user_id text primary key check (user_id ~ '^[A-Za-z0-9_-]{1,80}$'), -- the APIM user id: portals refuse other characters in tokens
    account_id text not null references accounts,
    role text not null default 'owner' check (role in ('owner', 'admin', 'developer', 'billing')),
    email text not null check (length(email) <= 254),
    email_key text not null unique, -- lower case: one person, one address
    first_name text not null,
    last_name text not null,
    password_hash text not null,
    registration_id text not null, -- of the form: a double click is the same registration
    apim_state text not null default 'intended' check (apim_state in ('intended', 'created', 'refused')),
    created_at timestamptz not null
);
create index members_account on members (account_id);
create index members_intended on members (created_at) where apim_state = 'intended';

-- Only a hash of the cookie's token is kept: who reads this table cannot sign in with it.
create table sessions (
    token_hash bytea primary key,
    user_id text not null references members,
    created_at timestamptz not null,
    expires_at timestamptz not null
);
create index sessions_expires on sessions (expires_at);

-- Attempts to sign in or to register, counted per address and per account (both hashed), in windows of fixed length.
create table attempts (
    subject text not null,
    window_start timestamptz not null,
    count integer not null,
    primary key (subject, window_start)
);
