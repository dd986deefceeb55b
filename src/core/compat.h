/*
 * What differs between PostgreSQL 15, 16, 17 and 18, and nothing else.
 */
#ifndef WAHOOK_COMPAT_H
#define WAHOOK_COMPAT_H

#include "postgres.h"

#include "access/genam.h"

#if PG_VERSION_NUM >= 180000
#define wahook_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define wahook_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

#endif
