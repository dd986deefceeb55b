/*
 * Where rows were last. A guess: whoever looks there must see whether it is the row.
 */
#ifndef WAHOOK_PLACE_H
#define WAHOOK_PLACE_H

#include "postgres.h"

#include "access/skey.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

/* The places of one table's rows. */
typedef struct wahook_Places wahook_Places;

/* Those of a table; null where there are none and they are not to be made. */
extern wahook_Places *wahook_places_of(Relation heap, bool make);

/* What a row is remembered by: its key, as it is looked for. */
extern uint64 wahook_hash_keys(const ScanKeyData *keys, int nkeys);

/* tid: where an index leads to, the first of a chain of versions. */
extern void wahook_note_place(wahook_Places *places, uint64 hash, const ItemPointerData *tid);
extern bool wahook_guess_place(const wahook_Places *places, uint64 hash, ItemPointer tid);

#endif
