#ifndef WAHOOK_UUID_H
#define WAHOOK_UUID_H

#include "postgres.h"

#include "utils/uuid.h"

extern void wahook_new_uuid(pg_uuid_t *uuid);
extern char *wahook_uuid_text(const pg_uuid_t *uuid);

/* For qsort() and bsearch() of pg_uuid_t. */
extern int wahook_compare_uuids(const void *a, const void *b);

/* uuid[] */
extern Datum wahook_uuid_array(const pg_uuid_t *ids, int n);

#endif
