-- Tokens, and what of a conversation fits a model's budget.

-- A function of the user's may count, so nothing more can be promised of these.
CREATE FUNCTION @extschema@.estimate_tokens(p_text text) RETURNS integer
	AS 'MODULE_PATHNAME', 'wahook_estimate_tokens' LANGUAGE C STABLE STRICT PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION @extschema@.estimate_tokens(text) IS
	'about how many tokens a text costs a model; wahook.token_counter can name a function that knows';

CREATE FUNCTION @extschema@.count_context_tokens(p_messages jsonb) RETURNS integer
	AS 'MODULE_PATHNAME', 'wahook_count_context_tokens' LANGUAGE C STABLE STRICT PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION @extschema@.count_context_tokens(jsonb) IS
	'about how many tokens an array of chat messages costs a model';

CREATE FUNCTION @extschema@.truncate_context(
	p_messages jsonb, p_max_tokens integer, p_max_messages integer = NULL) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'wahook_truncate_context_sql' LANGUAGE C STABLE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION @extschema@.truncate_context(jsonb, integer, integer) IS
	'the newest of an array of chat messages that fit a budget, with the system prompt and what is pinned';
