-- Levels: what a role may be to wahook. A level is a privilege on a type that stands for it, and so
-- is the sight of personal data. Types, because no GRANT ON ALL ... IN SCHEMA reaches them, as it
-- reaches tables and functions: what they open is never opened by accident. And because PostgreSQL
-- then does the bookkeeping: the privilege follows a role that is renamed, goes with one that is
-- dropped, is inherited by members, and is in every dump.

CREATE DOMAIN @extschema@.webhook_level_service AS text;
COMMENT ON DOMAIN @extschema@.webhook_level_service IS
	'who has USAGE on this has the level service; see wahook_grant()';
CREATE DOMAIN @extschema@.webhook_level_monitor AS text;
COMMENT ON DOMAIN @extschema@.webhook_level_monitor IS
	'who has USAGE on this has the level monitor; see wahook_grant()';
CREATE DOMAIN @extschema@.webhook_level_admin AS text;
COMMENT ON DOMAIN @extschema@.webhook_level_admin IS
	'who has USAGE on this has the level admin; see wahook_grant()';
CREATE DOMAIN @extschema@.webhook_level_personal_data AS text;
COMMENT ON DOMAIN @extschema@.webhook_level_personal_data IS
	'who has USAGE on this has the level personal_data; see wahook_grant()';

CREATE DOMAIN @extschema@.webhook_personal_data AS text;
COMMENT ON DOMAIN @extschema@.webhook_personal_data IS
	'to who has USAGE on this, the views show phone numbers and user ids';
