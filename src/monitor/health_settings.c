/*
 * The wahook.health_* settings: from where on something is an alert. The defaults of the first five
 * are those of the contract. SQL reads them; -1 turns an alert off.
 */
#include "monitor/health_settings.h"

#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "core/compat.h"

#define DAY_S (24 * 3600)
#define MAX_WINDOW_S (30 * DAY_S)
#define MAX_LAG_S (10 * 365 * DAY_S)

int wahook_health_clock_jump_s;

typedef struct Threshold
{
	const char *name;
	const char *what;
	int value;
	int max;
	int unit; /* 0: a number; GUC_UNIT_S */
} Threshold;

/* Read through current_setting(); the values here are their defaults, and then only their storage. */
static Threshold thresholds[] = {
	{"wahook.health_stuck", "How many stuck conversations are no alert yet.", 0, INT_MAX, 0},
	{"wahook.health_errors", "How many errors in wahook.health_window are no alert yet.", 10,
	 INT_MAX, 0},
	{"wahook.health_dead_letters", "How many dead letters that wait for a retry are no alert yet.",
	 5, INT_MAX, 0},
	{"wahook.health_timeouts",
	 "How many conversations that timed out in wahook.health_window are no alert yet.", 5, INT_MAX,
	 0},
	{"wahook.health_stale_locks", "How many locks beyond their lease are no alert yet.", 0, INT_MAX,
	 0},
	{"wahook.health_quarantine",
	 "How many new rows of the quarantine in wahook.health_window are no alert yet.", 10, INT_MAX,
	 0},
	{"wahook.health_circuits", "How many open circuits are no alert yet.", 0, INT_MAX, 0},
	{"wahook.health_worker_timeout",
	 "How long the worker may be gone, late, or busy with one turn.", 60, DAY_S, GUC_UNIT_S},
	{"wahook.health_inbox_age",
	 "How long the first message of a service may wait after it became due.", 300, MAX_WINDOW_S,
	 GUC_UNIT_S},
	{"wahook.health_retention_lag", "How long rows may outlive their retention.", DAY_S, MAX_LAG_S,
	 GUC_UNIT_S},
};

void
wahook_define_health_settings(void)
{
	static int window_s;

	for (size_t i = 0; i < lengthof(thresholds); i++)
		DefineCustomIntVariable(thresholds[i].name, thresholds[i].what, "-1 turns the alert off.",
								&thresholds[i].value, thresholds[i].value, -1, thresholds[i].max,
								PGC_USERSET, thresholds[i].unit, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.health_clock_jump",
							"By how much the clock must have been set to be an alert.",
							"-1 turns the alert off.", &wahook_health_clock_jump_s, 10, -1, DAY_S,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.health_window",
							"How long errors, timeouts, quarantined input and jumps of the clock count.",
							NULL, &window_s, 3600, 1, MAX_WINDOW_S, PGC_USERSET, GUC_UNIT_S, NULL,
							NULL, NULL);
}
