/*
 * The states of a circuit breaker, and what leads from one to another.
 */
#include "retry/circuit_state.h"

/*
 * A clock that was set back must not keep a circuit open for longer than its timeout: a probe_at
 * that is further ahead than that was computed by another clock.
 */
bool
wahook_circuit_waits(const wahook_Circuit *circuit, int64_t now)
{
	return circuit->state != WAHOOK_CIRCUIT_CLOSED && now < circuit->probe_at &&
		   circuit->probe_at - circuit->timeout_us <= now;
}

void
wahook_circuit_note_probe(wahook_Circuit *circuit, int64_t now)
{
	if (circuit->state == WAHOOK_CIRCUIT_CLOSED)
		return;
	circuit->state = WAHOOK_CIRCUIT_HALF_OPEN;
	circuit->probe_at = now + circuit->timeout_us;
}

/*
 * While the circuit is open and waits, both ends can only come from calls that began before it
 * opened: they say nothing new. Past that time whoever calls without having asked is the probe.
 */
static bool
is_late(const wahook_Circuit *circuit, int64_t now)
{
	return circuit->state == WAHOOK_CIRCUIT_OPEN && wahook_circuit_waits(circuit, now);
}

void
wahook_circuit_note_success(wahook_Circuit *circuit, int64_t now)
{
	if (is_late(circuit, now))
		return;
	circuit->state = WAHOOK_CIRCUIT_CLOSED;
	circuit->failures = 0;
}

void
wahook_circuit_note_failure(wahook_Circuit *circuit, int threshold, int64_t timeout_us, int64_t now)
{
	if (threshold <= 0 || is_late(circuit, now))
		return;
	if (circuit->failures < threshold)
		circuit->failures++;
	if (circuit->state == WAHOOK_CIRCUIT_CLOSED && circuit->failures < threshold)
		return;
	circuit->state = WAHOOK_CIRCUIT_OPEN;
	circuit->timeout_us = timeout_us;
	circuit->probe_at = now + timeout_us;
}
