-- The first day whose events are all still there. It is written before anything is dropped and never goes back: a longer retention
-- brings no events back.
create table events_kept (
    only_row boolean primary key default true check (only_row),
    kept_from date not null
);
