-- When a session was begun (wall time): one whose outcome never came must not stand in the way of the next.

alter table checkout_session add column created_at timestamptz not null default now();
