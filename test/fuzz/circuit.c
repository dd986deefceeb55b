/*
 * A circuit breaker under random calls, against a model of what it promises:
 *
 * - it opens after as many failures in a row as the threshold says, and not before;
 * - while it is open nothing is let through before its timeout, nor for longer than that, whatever the clock does;
 * - then one call in each timeout is let through, until one has succeeded, which closes it.
 *
 *   circuit STEPS
 */
#include <stdio.h>
#include <stdlib.h>

#include "retry/circuit_state.h"

#define CHECK(condition) \
	do \
	{ \
		if (!(condition)) \
		{ \
			fprintf(stderr, "step %ld: not true: %s\n", step, #condition); \
			exit(1); \
		} \
	} while (0)

static uint64_t random_state = 42;

static uint64_t
random_below(uint64_t n)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (random_state >> 33) % n;
}

int
main(int argc, char **argv)
{
	long steps = argc > 1 ? atol(argv[1]) : 100000;
	wahook_Circuit circuit = {WAHOOK_CIRCUIT_CLOSED, 0, 0, 0};
	int64_t now = 0;
	int threshold = 3;
	int64_t timeout = 100;
	int in_a_row = 0;         /* failures while closed */
	int64_t admitted_at = -1; /* while not closed: when it last opened or let a probe through */
	long opened = 0;
	long probed = 0;
	long closed = 0;

	for (long step = 0; step < steps; step++)
	{
		bool was_closed = circuit.state == WAHOOK_CIRCUIT_CLOSED;
		bool waits;

		now += random_below(60);
		if (random_below(200) == 0)
		{
			now -= 10000; /* the clock is set back */
			if (!was_closed)
				admitted_at = now - timeout;
		}
		waits = wahook_circuit_waits(&circuit, now);
		CHECK(!was_closed || !waits);
		CHECK(was_closed || waits == (now - admitted_at < timeout));
		switch (random_below(4))
		{
			case 0:
				if (waits)
					break;
				wahook_circuit_note_probe(&circuit, now);
				CHECK(circuit.state == (was_closed ? WAHOOK_CIRCUIT_CLOSED : WAHOOK_CIRCUIT_HALF_OPEN));
				if (!was_closed)
				{
					admitted_at = now;
					probed++;
				}
				break;
			case 1:
			{
				bool late = circuit.state == WAHOOK_CIRCUIT_OPEN && waits;

				wahook_circuit_note_success(&circuit, now);
				CHECK(circuit.state == (late ? WAHOOK_CIRCUIT_OPEN : WAHOOK_CIRCUIT_CLOSED));
				if (!late)
					in_a_row = 0;
				closed += !was_closed && !late;
				break;
			}
			default:
			{
				bool late = circuit.state == WAHOOK_CIRCUIT_OPEN && waits;

				if (was_closed)
					in_a_row++;
				wahook_circuit_note_failure(&circuit, threshold, timeout, now);
				CHECK((circuit.state == WAHOOK_CIRCUIT_OPEN) == (!was_closed || in_a_row >= threshold));
				if (circuit.state == WAHOOK_CIRCUIT_OPEN && !late)
				{
					admitted_at = now;
					opened++;
				}
				break;
			}
		}
		/* Settings change while it is closed and has seen nothing. */
		if (circuit.state == WAHOOK_CIRCUIT_CLOSED && circuit.failures == 0)
		{
			threshold = 1 + (int) random_below(5);
			timeout = 1 + (int64_t) random_below(200);
		}
	}

	/* Without a threshold no failure opens it. */
	for (long step = 0; step < 1000; step++)
	{
		wahook_Circuit never = {WAHOOK_CIRCUIT_CLOSED, 0, 0, 0};

		wahook_circuit_note_failure(&never, 0, timeout, step);
		CHECK(never.state == WAHOOK_CIRCUIT_CLOSED && never.failures == 0);
	}
	if (opened == 0 || probed == 0 || closed == 0)
	{
		fprintf(stderr, "opened %ld, probed %ld, closed %ld times\n", opened, probed, closed);
		return 1;
	}
	return 0;
}
