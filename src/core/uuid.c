/*
 * Time-ordered UUIDs, version 7 of RFC 9562 with the sub-millisecond fraction of method 3. They name
 * things and keep no secret, so their random bits need not be of the cryptographic kind.
 */
#include "core/uuid.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/timestamp.h"

#include "core/compat.h"

PG_FUNCTION_INFO_V1(wahook_uuid);

#define UUID_TEXT_LENGTH 36

void
wahook_new_uuid(pg_uuid_t *uuid)
{
	int64 us = GetCurrentTimestamp() + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	uint64 ms = us / 1000;
	uint32 fraction = (us % 1000) * 4096 / 1000;
	uint64 random = pg_prng_uint64(&pg_global_prng_state);

	memcpy(&uuid->data[8], &random, sizeof(random));
	for (int i = 0; i < 6; i++)
		uuid->data[i] = (unsigned char) (ms >> (8 * (5 - i)));
	uuid->data[6] = 0x70 | (fraction >> 8);
	uuid->data[7] = (unsigned char) fraction;
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
}

/* The usual text form, palloc'd. */
char *
wahook_uuid_text(const pg_uuid_t *uuid)
{
	static const char digits[] = "0123456789abcdef";
	char *text = palloc(UUID_TEXT_LENGTH + 1);
	char *to = text;

	for (int i = 0; i < UUID_LEN; i++)
	{
		/* In groups of 4, 2, 2, 2 and 6 bytes. */
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*to++ = '-';
		*to++ = digits[uuid->data[i] >> 4];
		*to++ = digits[uuid->data[i] & 0xf];
	}
	*to = '\0';
	return text;
}

int
wahook_compare_uuids(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(pg_uuid_t));
}

Datum
wahook_uuid_array(const pg_uuid_t *ids, int n)
{
	Datum *elements = palloc_array(Datum, Max(n, 1));
	ArrayType *array;

	for (int i = 0; i < n; i++)
		elements[i] = UUIDPGetDatum(&ids[i]);
	array = construct_array(elements, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR);
	pfree(elements);
	return PointerGetDatum(array);
}

Datum
wahook_uuid(PG_FUNCTION_ARGS)
{
	pg_uuid_t *uuid = palloc(sizeof(pg_uuid_t));

	wahook_new_uuid(uuid);
	PG_RETURN_UUID_P(uuid);
}
