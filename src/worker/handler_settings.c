/*
 * The settings of handler processes.
 */
#include "worker/handler_settings.h"

#include "utils/guc.h"

#include "core/shared.h"

int wahook_handler_workers;
int wahook_handler_idle_timeout_s;

void
wahook_define_handler_settings(void)
{
	DefineCustomIntVariable("wahook.handler_workers",
							"The most processes of a database that run SQL handlers.",
							"0: none; then only process_dead_letter_queue() runs handlers.",
							&wahook_handler_workers, 2, 0, WAHOOK_MAX_HANDLERS, PGC_SIGHUP, 0, NULL,
							NULL, NULL);
	DefineCustomIntVariable("wahook.handler_idle_timeout",
							"How long a process that runs SQL handlers stays when there is nothing to do.",
							NULL, &wahook_handler_idle_timeout_s, 60, 1, 24 * 3600, PGC_SIGHUP,
							GUC_UNIT_S, NULL, NULL, NULL);
}
