/*
 * Locks on names, until the transaction ends, in the lock table of the server.
 *
 * They are advisory locks of classes of their own, which pg_advisory_lock() can't reach: PostgreSQL
 * itself uses the classes 1 and 2. So nobody can take one who can't call what takes it here.
 */
#ifndef WAHOOK_NAME_LOCK_H
#define WAHOOK_NAME_LOCK_H

#include "postgres.h"

/* What is locked. Names of different kinds never meet. */
typedef enum wahook_LockSpace
{
	WAHOOK_LOCK_MESSAGE = 0x5748, /* a message's place in the dead letter queue, by its wamid */
	WAHOOK_LOCK_CIRCUIT = 0x5743, /* a circuit, by its key */
	WAHOOK_LOCK_CONVERSATION = 0x574E, /* the making of a conversation, by its id */
	WAHOOK_LOCK_JOB = 0x574A,          /* the run of a job, by its name */
	WAHOOK_LOCK_BUDGET = 0x5742        /* the spending of a budget's tokens, by its name and user */
} wahook_LockSpace;

/* False when another transaction has it and wait is false. A name is any bytes. */
extern bool wahook_lock_name(wahook_LockSpace space, const void *name, Size len, bool wait);

#endif
