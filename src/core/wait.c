/*
 * What the processes of wahook wait for, as pg_stat_activity shows it.
 */
#include "core/wait.h"

#include "pgstat.h"

#include "core/compat.h"

static const char *const names[WAHOOK_NWAITS] = {
	[WAHOOK_WAIT_LAUNCHER] = "WahookLauncherMain",
	[WAHOOK_WAIT_WORKER] = "WahookWorkerMain",
	[WAHOOK_WAIT_HTTP] = "WahookHttp",
	[WAHOOK_WAIT_HANDLER] = "WahookHandlerMain",
	[WAHOOK_WAIT_ROW] = "WahookRow",
	[WAHOOK_WAIT_PROCESSES] = "WahookProcesses",
	[WAHOOK_WAIT_START] = "WahookStart",
};

uint32
wahook_wait_event(wahook_Wait wait)
{
	static uint32 events[WAHOOK_NWAITS];

	if (events[wait] == 0)
		events[wait] = wahook_new_wait_event(names[wait]);
	return events[wait];
}

void
wahook_pause(wahook_Wait wait, long microseconds)
{
	pgstat_report_wait_start(wahook_wait_event(wait));
	pg_usleep(microseconds);
	pgstat_report_wait_end();
}
