/*
 * Circuit breakers, in the table webhook_circuits.
 *
 * Whoever changes a circuit holds a lock on its key (core/name_lock.h) until its transaction ends;
 * the row alone could not serve, for the first failure of a key has none. Asking whether a closed
 * circuit admits, and reporting a success to it, take no lock and write nothing.
 */
#include "retry/circuit.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/errors.h"
#include "core/event.h"
#include "core/name_lock.h"
#include "core/plan.h"
#include "core/row.h"
#include "core/wait.h"
#include "core/wake.h"

/* How long a report waits for another one on the same key, most of which take no time at all. */
#define PATIENCE_US 100000
#define PATIENCE_STEP_US 2000

#define DEFAULT_THRESHOLD 5
#define DEFAULT_TIMEOUT_MS 60000
#define USECS_PER_MSEC INT64CONST(1000)

PG_FUNCTION_INFO_V1(wahook_is_circuit_open);
PG_FUNCTION_INFO_V1(wahook_require_circuit_closed);
PG_FUNCTION_INFO_V1(wahook_record_circuit_failure);
PG_FUNCTION_INFO_V1(wahook_record_circuit_success);
PG_FUNCTION_INFO_V1(wahook_reset_circuit);

/* In the order of wahook_CircuitState. */
static const char *const state_names[] = {"closed", "open", "half-open"};

static wahook_Plan read_plan =
	{"SELECT state, failures, timeout_ms, probe_at FROM @extschema@.webhook_circuits WHERE key = $1",
	 1,
	 {TEXTOID}};

static wahook_Plan write_plan =
	{"INSERT INTO @extschema@.webhook_circuits AS c"
	 " (key, state, failures, timeout_ms, probe_at, opened_at, updated_at)"
	 " VALUES ($1, $2, $3, $4, $5, CASE WHEN $2 <> 'closed' THEN $6 END, $6)"
	 " ON CONFLICT (key) DO UPDATE SET state = EXCLUDED.state, failures = EXCLUDED.failures,"
	 " timeout_ms = EXCLUDED.timeout_ms, probe_at = EXCLUDED.probe_at, updated_at = EXCLUDED.updated_at,"
	 " opened_at = CASE WHEN $2 <> 'closed' THEN coalesce(c.opened_at, $6) END",
	 6,
	 {TEXTOID, TEXTOID, INT4OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID}};

static wahook_Plan reset_plan =
	{"DELETE FROM @extschema@.webhook_circuits WHERE key = $1 RETURNING state", 1, {TEXTOID}};

char *
wahook_service_circuit(const char *service)
{
	return psprintf("service:%s", service);
}

char *
wahook_agent_circuit(const char *agent_type)
{
	return psprintf("agent:%s", agent_type);
}

static wahook_CircuitState
state_of(const char *name)
{
	for (size_t i = 0; i < lengthof(state_names); i++)
		if (strcmp(state_names[i], name) == 0)
			return (wahook_CircuitState) i;
	return WAHOOK_CIRCUIT_CLOSED;
}

/* No row, and no table to be read on a standby, is a closed circuit. */
static wahook_Circuit
read_circuit(const char *key)
{
	wahook_Circuit circuit = {.state = WAHOOK_CIRCUIT_CLOSED};
	Datum value = CStringGetTextDatum(key);
	bool isnull;

	if (RecoveryInProgress() || wahook_execute(&read_plan, &value, NULL) == 0)
		return circuit;
	circuit.state = state_of(wahook_result_text(0, 1));
	circuit.failures = DatumGetInt32(wahook_result(0, 2, &isnull));
	circuit.timeout_us = DatumGetInt64(wahook_result(0, 3, &isnull)) * USECS_PER_MSEC;
	value = wahook_result(0, 4, &isnull);
	if (!isnull)
		circuit.probe_at = DatumGetTimestampTz(value);
	return circuit;
}

static void
write_circuit(const char *key, const wahook_Circuit *circuit, TimestampTz now)
{
	bool closed = circuit->state == WAHOOK_CIRCUIT_CLOSED;
	Datum values[] = {CStringGetTextDatum(key),
					  CStringGetTextDatum(state_names[circuit->state]),
					  Int32GetDatum(circuit->failures),
					  Int64GetDatum(circuit->timeout_us / USECS_PER_MSEC),
					  TimestampTzGetDatum(circuit->probe_at),
					  TimestampTzGetDatum(now)};
	const char nulls[] = {' ', ' ', ' ', ' ', closed ? 'n' : ' ', ' ', '\0'};

	wahook_execute(&write_plan, values, nulls);
}

/* Until the transaction ends. False when others have had it for all of the patience. */
static bool
lock_circuit(const char *key, int patience_us)
{
	while (!wahook_lock_name(WAHOOK_LOCK_CIRCUIT, key, strlen(key), false))
	{
		if (patience_us <= 0)
			return false;
		CHECK_FOR_INTERRUPTS();
		wahook_pause(WAHOOK_WAIT_ROW, PATIENCE_STEP_US);
		patience_us -= PATIENCE_STEP_US;
	}
	return true;
}

static void
log_event(const char *name, bool problem, const char *key, const wahook_Circuit *circuit)
{
	wahook_Event event;

	wahook_event_begin(&event, name, problem);
	wahook_event_text(&event, "key", key);
	wahook_event_int(&event, "failures", circuit->failures);
	wahook_event_int(&event, "timeoutMs", circuit->timeout_us / USECS_PER_MSEC);
	wahook_event_end(&event);
}

/* Closing is logged like opening, though it is good news: the two tell how long it lasted. */
static void
log_change(const char *key, const wahook_Circuit *circuit)
{
	switch (circuit->state)
	{
		case WAHOOK_CIRCUIT_CLOSED:
			log_event("CIRCUIT_BREAKER_CLOSED", true, key, circuit);
			break;
		case WAHOOK_CIRCUIT_OPEN:
			log_event("CIRCUIT_BREAKER_OPENED", true, key, circuit);
			break;
		case WAHOOK_CIRCUIT_HALF_OPEN:
			log_event("CIRCUIT_BREAKER_HALF_OPENED", false, key, circuit);
			break;
	}
}

/* Writes what has become of a circuit, and says so where its state is another one. */
static void
change_circuit(const char *key, const wahook_Circuit *from, const wahook_Circuit *to,
			   TimestampTz now)
{
	if (from->state == to->state && from->failures == to->failures &&
		from->timeout_us == to->timeout_us && from->probe_at == to->probe_at)
		return;
	write_circuit(key, to, now);
	if (from->state != to->state)
		log_change(key, to);
}

static wahook_CircuitVerdict
judge(const wahook_Circuit *circuit, TimestampTz now)
{
	if (wahook_circuit_waits(circuit, now))
		return (wahook_CircuitVerdict){.retry_at = circuit->probe_at};
	return (wahook_CircuitVerdict){.admitted = true,
								   .probe = circuit->state != WAHOOK_CIRCUIT_CLOSED};
}

wahook_CircuitVerdict
wahook_circuit_look(const char *key)
{
	wahook_Circuit circuit = read_circuit(key);

	return judge(&circuit, GetCurrentTimestamp());
}

/* Whoever is changing the circuit at this moment is the probe, or has just heard of one. */
wahook_CircuitVerdict
wahook_circuit_admit(const char *key)
{
	TimestampTz now = GetCurrentTimestamp();
	wahook_Circuit before = read_circuit(key);
	wahook_CircuitVerdict verdict = judge(&before, now);
	wahook_Circuit after;

	if (!verdict.probe)
		return verdict;
	if (XactReadOnly || !lock_circuit(key, 0))
		return (wahook_CircuitVerdict){.retry_at = now + Min(before.timeout_us, USECS_PER_SEC)};
	before = after = read_circuit(key);
	verdict = judge(&before, now);
	if (verdict.admitted)
	{
		wahook_circuit_note_probe(&after, now);
		change_circuit(key, &before, &after, now);
	}
	return verdict;
}

/* The circuit is read before its lock is taken, and again under it: most reports change nothing. */
wahook_CircuitState
wahook_circuit_report(const char *key, bool ok, int threshold, int64 timeout_us)
{
	TimestampTz now = GetCurrentTimestamp();
	wahook_Circuit before = read_circuit(key);
	wahook_Circuit after;

	if (ok && before.state == WAHOOK_CIRCUIT_CLOSED && before.failures == 0)
		return before.state;
	if (!lock_circuit(key, PATIENCE_US))
		return before.state;
	before = after = read_circuit(key);
	if (ok)
		wahook_circuit_note_success(&after, now);
	else
		wahook_circuit_note_failure(&after, threshold, timeout_us, now);
	change_circuit(key, &before, &after, now);
	return after.state;
}

/* p_key. Error 22023 when it can't be one. */
static char *
key_arg(FunctionCallInfo fcinfo)
{
	char *key = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	size_t length = key ? strlen(key) : 0;

	if (length < 1 || length > WAHOOK_MAX_CIRCUIT_KEY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("p_key is out of range"),
				 key ? errdetail("It has %zu bytes; a key has from 1 to %d.", length,
								 WAHOOK_MAX_CIRCUIT_KEY)
					 : errdetail("It is null."),
				 errhint(
					 "Pass the name of what is called, for example 'payments'. 'service:' and the name of a service is its own circuit.")));
	return key;
}

/* A number that must be positive; the default where it is null. */
static int
positive_arg(FunctionCallInfo fcinfo, int arg, const char *name, int default_value)
{
	int value = PG_ARGISNULL(arg) ? default_value : PG_GETARG_INT32(arg);

	if (value < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must be positive", name),
				 errdetail("It is %d.", value), errhint("Leave it null for %d.", default_value)));
	return value;
}

/* is_circuit_open(text) → boolean; false: the caller may go, perhaps as the probe. */
Datum
wahook_is_circuit_open(PG_FUNCTION_ARGS)
{
	char *key = key_arg(fcinfo);
	wahook_CircuitVerdict verdict;

	wahook_begin(fcinfo);
	verdict = wahook_circuit_admit(key);
	wahook_end();
	PG_RETURN_BOOL(!verdict.admitted);
}

/* require_circuit_closed(text) → void: the same, as an error. */
Datum
wahook_require_circuit_closed(PG_FUNCTION_ARGS)
{
	char *key = key_arg(fcinfo);
	wahook_CircuitVerdict verdict;

	wahook_begin(fcinfo);
	verdict = wahook_circuit_admit(key);
	wahook_end();
	if (!verdict.admitted)
		ereport(ERROR,
				(errcode(WAHOOK_CIRCUIT_IS_OPEN), errmsg("circuit \"%s\" is open", key),
				 errdetail("It lets a probe through from %s on.",
						   timestamptz_to_str(verdict.retry_at)),
				 errhint(
					 "Try again then. Where what it guards works again, reset_circuit() closes it at once.")));
	PG_RETURN_VOID();
}

static Datum
report(FunctionCallInfo fcinfo, bool ok, int threshold, int64 timeout_us)
{
	char *key = key_arg(fcinfo);
	wahook_CircuitState state;

	wahook_begin(fcinfo);
	state = wahook_circuit_report(key, ok, threshold, timeout_us);
	wahook_end();
	PG_RETURN_TEXT_P(cstring_to_text(state_names[state]));
}

/* record_circuit_failure(text, integer, integer) → text: the new state */
Datum
wahook_record_circuit_failure(PG_FUNCTION_ARGS)
{
	int threshold = positive_arg(fcinfo, 1, "p_threshold", DEFAULT_THRESHOLD);
	int timeout_ms = positive_arg(fcinfo, 2, "p_timeout_ms", DEFAULT_TIMEOUT_MS);

	return report(fcinfo, false, threshold, timeout_ms * USECS_PER_MSEC);
}

/* record_circuit_success(text) → text: the new state */
Datum
wahook_record_circuit_success(PG_FUNCTION_ARGS)
{
	return report(fcinfo, true, 0, 0);
}

/* reset_circuit(text) → void: closes it by hand. */
Datum
wahook_reset_circuit(PG_FUNCTION_ARGS)
{
	static const wahook_Circuit closed = {.state = WAHOOK_CIRCUIT_CLOSED};
	char *key = key_arg(fcinfo);
	Datum value = CStringGetTextDatum(key);

	wahook_begin(fcinfo);
	if (!lock_circuit(key, PATIENCE_US))
		wahook_raise_busy("circuit", psprintf("\"%s\"", key));
	if (wahook_execute(&reset_plan, &value, NULL) > 0 &&
		state_of(wahook_result_text(0, 1)) != WAHOOK_CIRCUIT_CLOSED)
		log_change(key, &closed);
	wahook_note_work(WAHOOK_WORK_CONFIG);
	wahook_end();
	PG_RETURN_VOID();
}
