/*
 * The module's entry point.
 */
#include "postgres.h"

#include "fmgr.h"

#include "core/compat.h"
#include "core/settings.h"

PG_MODULE_MAGIC;

void _PG_init(void);

PGDLLEXPORT void
_PG_init(void)
{
	wahook_define_settings();
}
