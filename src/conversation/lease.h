/*
 * The ends of leases, by which holders that vanished are found.
 *
 * A row of webhook_leases says when to look at the conversations that were locked together, never
 * what is true of them: a conversation's own row says who has it, and until when.
 */
#ifndef WAHOOK_LEASE_H
#define WAHOOK_LEASE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "core/table.h"

/* So many fit in a row that is stored in one piece. */
#define WAHOOK_MAX_LEASED 100

typedef struct wahook_Lease
{
	TimestampTz expires_at;
	pg_uuid_t lock_id;
	char *service;
	pg_uuid_t *ids; /* conversations */
	int n;
} wahook_Lease;

/* Adds a row for up to WAHOOK_MAX_LEASED conversations. */
extern void wahook_add_lease(wahook_Table *leases, TimestampTz expires_at, const pg_uuid_t *lock_id,
							 const char *service, const pg_uuid_t *ids, int n);

/*
 * Removes the rows for this end and lock id that are of no other conversations than these, which
 * must be sorted. Other rows stay until somebody looks at them; so does one that was renewed.
 */
extern void wahook_end_leases(wahook_Table *leases, TimestampTz expires_at,
							  const pg_uuid_t *lock_id, const pg_uuid_t *ids, int n);

/* What became of a conversation whose lease should have ended. */
typedef enum wahook_LeaseEnd
{
	WAHOOK_LEASE_OVER,    /* released, taken over, or seen to now */
	WAHOOK_LEASE_RENEWED, /* the same lock id has it for longer, *until */
	WAHOOK_LEASE_UNCLEAR, /* to be looked at again */
	WAHOOK_LEASE_ENOUGH   /* not looked at, nor are any more to be */
} wahook_LeaseEnd;

typedef wahook_LeaseEnd (*wahook_LeaseVisitor)(void *arg, const wahook_Lease *lease,
											   const pg_uuid_t *id, TimestampTz *until);

/*
 * Has a visitor look at each conversation whose lease ended from one time to another, and removes the
 * rows that have been seen to. Returns the time of the first one that is left, or DT_NOEND.
 */
extern TimestampTz wahook_visit_leases(wahook_Table *leases, TimestampTz from, TimestampTz to,
									   wahook_LeaseVisitor visit, void *arg);

#endif
