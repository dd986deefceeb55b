/*
 * Where this session last met rows.
 *
 * A message is claimed and completed, its conversation locked and unlocked, mostly by one session,
 * and the way to a row down an index costs twice as much as the row. So a session remembers the
 * places of some thousand rows of each table that is read row by row, by a hash of their keys. Rows
 * move and vanish, and their places are taken by others: what is kept here is never believed, and
 * where it is wrong the index is asked.
 */
#include "core/place.h"

#include "common/hashfn.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "core/compat.h"

/* Tables of which places are kept, and how many of each; a power of two. */
#define MAX_TABLES 8
#define MAX_PLACES 8192

typedef struct Place
{
	uint32 tag;          /* of the hash, what does not decide where it stands here */
	ItemPointerData tid; /* invalid: there is none */
} Place;

struct wahook_Places
{
	Oid relid;
	Oid file; /* changes when the table is written anew */
	Place places[MAX_PLACES];
};

static wahook_Places *tables[MAX_TABLES];

wahook_Places *
wahook_places_of(Relation heap, bool make)
{
	static int next = 0;
	wahook_Places *places = NULL;
	int i;

	for (i = 0; i < MAX_TABLES && tables[i] != NULL; i++)
		if (tables[i]->relid == RelationGetRelid(heap))
			places = tables[i];
	if (places != NULL && places->file == heap->rd_rel->relfilenode)
		return places;
	if (!make)
		return NULL;
	if (places == NULL && i < MAX_TABLES)
		places = tables[i] = MemoryContextAlloc(TopMemoryContext, sizeof(wahook_Places));
	else if (places == NULL)
		places = tables[next++ % MAX_TABLES]; /* of an extension that was dropped, most likely */
	memset(places, 0, sizeof(*places));
	places->relid = RelationGetRelid(heap);
	places->file = heap->rd_rel->relfilenode;
	return places;
}

static uint64
hash_key(const ScanKeyData *key)
{
	switch (key->sk_func.fn_oid)
	{
		case F_UUID_EQ:
			return hash_bytes_extended((unsigned char *) DatumGetPointer(key->sk_argument), 16, 0);
		case F_TEXTEQ:
			return hash_bytes_extended((unsigned char *) VARDATA_ANY(
										   DatumGetPointer(key->sk_argument)),
									   (int) VARSIZE_ANY_EXHDR(DatumGetPointer(key->sk_argument)),
									   0);
		default:
			return hash_bytes_extended((const unsigned char *) &key->sk_argument, sizeof(Datum), 0);
	}
}

uint64
wahook_hash_keys(const ScanKeyData *keys, int nkeys)
{
	uint64 hash = 0;

	for (int i = 0; i < nkeys; i++)
		hash = hash_combine64(hash, hash_key(&keys[i]));
	return hash;
}

void
wahook_note_place(wahook_Places *places, uint64 hash, const ItemPointerData *tid)
{
	places->places[hash % MAX_PLACES] = (Place){(uint32) (hash >> 32), *tid};
}

bool
wahook_guess_place(const wahook_Places *places, uint64 hash, ItemPointer tid)
{
	const Place *place = &places->places[hash % MAX_PLACES];

	*tid = place->tid;
	return place->tag == (uint32) (hash >> 32) && ItemPointerIsValid(tid);
}
