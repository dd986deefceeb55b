/*
 * The module's entry point.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "core/compat.h"
#include "core/counters.h"
#include "core/settings.h"
#include "core/shared.h"
#include "monitor/health_settings.h"
#include "worker/alert_settings.h"
#include "worker/handler_settings.h"
#include "worker/http_settings.h"
#include "worker/worker.h"
#include "worker/worker_settings.h"

PG_MODULE_MAGIC;

void _PG_init(void);

PGDLLEXPORT void
_PG_init(void)
{
	wahook_define_settings();
	wahook_define_http_settings();
	wahook_define_worker_settings();
	wahook_define_handler_settings();
	wahook_define_health_settings();
	wahook_define_alert_settings();
	MarkGUCPrefixReserved("wahook");
	wahook_install_hooks();
	if (process_shared_preload_libraries_in_progress)
	{
		wahook_reserve_shared();
		wahook_reserve_counters();
		wahook_note_preload();
		wahook_register_launcher();
	}
}
