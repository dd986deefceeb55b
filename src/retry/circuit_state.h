/*
 * The states of a circuit breaker, without tables and without a clock: times come in as arguments.
 *
 * closed: calls go through, and failures in a row are counted.
 * open: nothing goes through until probe_at.
 * half-open: one call, the probe, is out. What comes of it closes the circuit or opens it again; a
 * prober that says nothing has vanished at probe_at, and the next one may go.
 */
#ifndef WAHOOK_CIRCUIT_STATE_H
#define WAHOOK_CIRCUIT_STATE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum wahook_CircuitState
{
	WAHOOK_CIRCUIT_CLOSED,
	WAHOOK_CIRCUIT_OPEN,
	WAHOOK_CIRCUIT_HALF_OPEN
} wahook_CircuitState;

/* All times in microseconds. All zero: a closed circuit that has seen nothing. */
typedef struct wahook_Circuit
{
	wahook_CircuitState state;
	int failures;       /* in a row; counted up to the threshold */
	int64_t timeout_us; /* how long it waited, or waits, for probe_at */
	int64_t probe_at;   /* unless closed */
} wahook_Circuit;

/* Whether calls have to wait until probe_at. */
extern bool wahook_circuit_waits(const wahook_Circuit *circuit, int64_t now);

/* A call that may go: where the circuit is not closed, it is the probe. */
extern void wahook_circuit_note_probe(wahook_Circuit *circuit, int64_t now);

/* How a call ended. threshold: failures in a row that open the circuit; 0: none ever do. */
extern void wahook_circuit_note_success(wahook_Circuit *circuit, int64_t now);
extern void wahook_circuit_note_failure(wahook_Circuit *circuit, int threshold, int64_t timeout_us,
										int64_t now);

#endif
