-- Read once, by psql in the image of Postgres, when its volume is empty: agents own the registry's database and are no
-- superuser, and the superuser gets in from its own container alone.
\getenv password POSTGRES_PASSWORD
CREATE ROLE qsweep LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
CREATE DATABASE qsweep OWNER qsweep;
ALTER ROLE postgres PASSWORD NULL;
