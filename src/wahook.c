/*
 * The module's entry point.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "core/compat.h"
#include "core/settings.h"
#include "core/shared.h"

PG_MODULE_MAGIC;

void _PG_init(void);

PGDLLEXPORT void
_PG_init(void)
{
	wahook_define_settings();
	if (process_shared_preload_libraries_in_progress)
		wahook_reserve_shared();
}
