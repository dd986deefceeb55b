-- Counting from SQL.

CREATE FUNCTION @extschema@.webhook_count(p_metric text, p_labels text[]) RETURNS void
	AS 'MODULE_PATHNAME', 'wahook_count_sql' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.webhook_count(text, text[]) IS
	'internal: adds 1 to a counter when the transaction commits; the metric without wahook_ and _total, the values of its labels in their order; a null among them: nothing';
