/*
 * Circuit breakers: what keeps failing is left alone for a while, and then tried by one probe.
 *
 * A circuit is known by its key. Nothing here waits for long: a report that meets another one on the
 * same key in a transaction that does not end is dropped, for what a breaker counts need not be exact.
 * wahook_begin() must have been called.
 */
#ifndef WAHOOK_CIRCUIT_H
#define WAHOOK_CIRCUIT_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "retry/circuit_state.h"

#define WAHOOK_MAX_CIRCUIT_KEY 1000 /* bytes: what btree takes, and more than a name needs */

typedef struct wahook_CircuitVerdict
{
	bool admitted;
	bool probe;           /* admitted, but only one call: what comes of it decides */
	TimestampTz retry_at; /* not admitted: when to ask again */
} wahook_CircuitVerdict;

/* The key of a service's circuit; palloc'd. */
extern char *wahook_service_circuit(const char *service);
/* The same of an agent's endpoint. */
extern char *wahook_agent_circuit(const char *agent_type);

/* What an admission would answer now. Only reads: it takes no probe. */
extern wahook_CircuitVerdict wahook_circuit_look(const char *key);

/*
 * Asks for leave to call. A probe is the caller's when its transaction commits; if nothing is
 * reported then, it comes back after the circuit's timeout. Never waits.
 */
extern wahook_CircuitVerdict wahook_circuit_admit(const char *key);

/*
 * Reports how a call ended, and returns the new state. threshold: failures in a row that open the
 * circuit; 0: none. For a success that finds the circuit closed this is one look-up.
 */
extern wahook_CircuitState wahook_circuit_report(const char *key, bool ok, int threshold,
												 int64 timeout_us);

#endif
