-- Makes the database that REGRESS_SERVICE runs in: the extension is in a schema of its own, and the role that runs the
-- tests has been given nothing but the service level.
CREATE ROLE wahook_service LOGIN;
CREATE SCHEMA wahook_x;
CREATE EXTENSION wahook SCHEMA wahook_x;
SELECT wahook_x.wahook_grant('wahook_service', 'service');
SELECT format('ALTER DATABASE %I SET search_path = wahook_x', current_database()) \gexec
