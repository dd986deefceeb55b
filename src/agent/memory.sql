-- What agents remember: its size and count are always those of the data.

CREATE FUNCTION @extschema@.webhook_memory_array(p_memory jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE
		WHEN jsonb_typeof(p_memory) = 'array' THEN p_memory
		WHEN jsonb_typeof(p_memory -> 'messages') = 'array' THEN p_memory -> 'messages' END;
COMMENT ON FUNCTION @extschema@.webhook_memory_array(jsonb) IS
	'the array of messages in what an agent remembers, as it is; null: there is none';

CREATE FUNCTION @extschema@.webhook_memory_messages(p_memory jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'wahook_memory_messages_sql' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_memory_messages(jsonb) IS
	'the messages in what an agent remembers, as chat messages: what is none is a text of the user';

CREATE FUNCTION @extschema@.webhook_hold_memory(p_conversation_id uuid, p_lock_id uuid, p_agent_type text)
	RETURNS void AS 'MODULE_PATHNAME', 'wahook_hold_memory' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION @extschema@.webhook_hold_memory(uuid, uuid, text) IS
	'holds a conversation for its lock, what an agent remembers of it, and its session, until the transaction ends; WH002 when the lock was lost, 55P03 when another transaction is changing one of them';

CREATE FUNCTION @extschema@.webhook_remember(
	p_memory jsonb, p_turn jsonb, p_known text[], p_max_messages integer, p_max_bytes integer,
	OUT memory jsonb, OUT forgotten jsonb, OUT added integer)
	RETURNS record AS 'MODULE_PATHNAME', 'wahook_remember' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_remember(jsonb, jsonb, text[], integer, integer) IS
	'adds the messages of a turn to what an agent remembers, but those whose id is known, and forgets the oldest that are beyond its bounds';

CREATE FUNCTION @extschema@.webhook_fit(p_messages jsonb, p_max_tokens integer, p_max_messages integer,
	OUT messages jsonb, OUT tokens integer, OUT left_out integer)
	RETURNS record AS 'MODULE_PATHNAME', 'wahook_fit' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION @extschema@.webhook_fit(jsonb, integer, integer) IS
	'truncate_context(), and what is kept costs, and how many messages are not';

CREATE FUNCTION @extschema@.webhook_with_member(p_object jsonb, p_key text, p_value jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'wahook_with_member' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.webhook_with_member(jsonb, text, jsonb) IS
	'an object with a member more, which is copied as it is and so may be large';

CREATE FUNCTION @extschema@.webhook_time(p_text text) RETURNS timestamptz
	LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	RETURN p_text::timestamptz;
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_time(text) IS 'a time that may be none, then null';

-- Callers write this table as well, and the numbers that they think right. Theirs may be in any shape:
-- where it has no messages, its text is what counts.
CREATE FUNCTION @extschema@.webhook_measure_memory() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_messages jsonb;
BEGIN
	NEW.context_data := @extschema@.webhook_current_memory(NEW.conversation_id, NEW.agent_type, NEW.context_data);
	v_messages := @extschema@.webhook_memory_messages(NEW.context_data);
	NEW.messages_count := jsonb_array_length(v_messages);
	NEW.token_count := CASE
		WHEN NEW.messages_count > 0 THEN @extschema@.count_context_tokens(v_messages)
		WHEN @extschema@.webhook_memory_array(NEW.context_data) IS NOT NULL OR NEW.context_data IN ('{}', 'null') THEN 0
		WHEN jsonb_typeof(NEW.context_data) = 'object' AND NEW.context_data ? 'summary' THEN 0
		ELSE @extschema@.estimate_tokens(NEW.context_data::text) END
		+ coalesce(@extschema@.estimate_tokens(NEW.context_data ->> 'summary'), 0);
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_measure_memory() IS
	'trigger: token_count and messages_count are those of context_data, and what a sender edited or revoked is so in it';
-- Not while a dump is restored, which turns that setting off: a token counter of the user's may not be there yet.
CREATE TRIGGER agent_contexts_measure BEFORE INSERT OR UPDATE ON @extschema@.agent_contexts
	FOR EACH ROW WHEN (current_setting('check_function_bodies') = 'on')
	EXECUTE FUNCTION @extschema@.webhook_measure_memory();
