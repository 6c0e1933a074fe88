-- Who makes a call at this moment: a worker that lost the database gives back what it held as soon as it has the database again.

alter table intent add column lease uuid;
