/*
 * Waking the background processes of a database by the commits that bring them work.
 */
#ifndef WAHOOK_WAKE_H
#define WAHOOK_WAKE_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef enum wahook_Work
{
	WAHOOK_WORK_DELIVER = 1 << 0, /* a conversation became claimable, or will */
	WAHOOK_WORK_RETRY = 1 << 1,   /* a dead letter is or will be due */
	WAHOOK_WORK_CONFIG = 1 << 2,  /* services, circuits or jobs changed */
	WAHOOK_WORK_OVERDUE = 1 << 3, /* heard with RETRY where it was due already at the commit */
	WAHOOK_WORK_REPLIED = 1 << 4  /* a handler has dealt with the reply of an agent */
} wahook_Work;

#define WAHOOK_WORK_ALL (WAHOOK_WORK_DELIVER | WAHOOK_WORK_RETRY | WAHOOK_WORK_CONFIG)

/*
 * At the commit of this transaction, wakes those of this database's listeners that want such work
 * and would sleep longer than until then. Cheap, and never an error.
 */
extern void wahook_note_work_at(int what, TimestampTz at);
extern void wahook_note_work(int what);

/*
 * For a background process that is connected to a database: it takes a place among the listeners of
 * its database, until it exits. MyLatch is what is set. Error 53000 when all places are taken.
 */
extern void wahook_listen(int wants);

/* Changes what it wants to hear of: what nobody wants costs the sessions nothing. */
extern void wahook_listen_for(int wants);

/*
 * What was noted since the last call; call it after ResetLatch() and before looking for work.
 * Until wahook_about_to_sleep() says how long the process is going to sleep, all notes wake it.
 */
extern int wahook_heard(void);

/* Returns false when something was noted meanwhile, and there is no time to sleep. */
extern bool wahook_about_to_sleep(TimestampTz until);

#endif
