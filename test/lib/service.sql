-- Makes the database that REGRESS_SERVICE runs in: the extension is in a schema of its own, with as odd a name as PostgreSQL
-- lets an extension have, and the role that runs the tests has been given nothing but the service level.
CREATE ROLE wahook_service LOGIN;
CREATE SCHEMA "Wa hook, 100%s; @é";
CREATE EXTENSION wahook SCHEMA "Wa hook, 100%s; @é";
SELECT "Wa hook, 100%s; @é".wahook_grant('wahook_service', 'service');
SELECT format('ALTER DATABASE %I SET search_path = %s', current_database(), quote_ident('Wa hook, 100%s; @é')) \gexec
