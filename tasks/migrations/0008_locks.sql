-- How often each named lock was had: the number of its holder now, by which a store refuses an older one.
CREATE TABLE fences (
    name text PRIMARY KEY,
    fence bigint NOT NULL
) WITH (fillfactor = 70);
