/*
 * Running SQL handlers in a process of their own: claims a conversation and commits, then runs the
 * handler for its messages, each in one transaction with its completion or failure. So what a
 * handler writes is there exactly once, and a crash leaves a claim behind, of which the lease runs
 * out.
 *
 * work: the conversation, or the dead letter without a conversation, that this process has.
 */
#include "worker/handler_run.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "conversation/lock.h"
#include "core/compat.h"
#include "core/plan.h"
#include "core/settings.h"
#include "core/uuid.h"
#include "core/wait.h"
#include "core/wake.h"
#include "retry/attempt.h"
#include "worker/handler_entry.h"
#include "worker/handler_place.h"
#include "worker/handler_reply.h"
#include "worker/handler_settings.h"
#include "worker/worker.h"

/* How long a handler that was told to end may go on before it takes its process with it. */
#define GRACE_MS 1000

/* How much longer than a call of the handler may take its messages are leased. */
#define LEASE_MARGIN_MS 5000

/* The lease where calls may take as long as they like: the row lock holds out longer. */
#define LONGEST_CALL_MS (3600 * 1000)

/* Somebody else has locked a row of the work. */
#define BUSY_TRIES 20
#define UNDONE_TRIES 3
#define BUSY_PAUSE_MS 50

typedef enum Hold
{
	HELD,
	LOST,
	BUSY
} Hold;

typedef struct Work
{
	wahook_Handler handler;
	bool is_there; /* claimed, and neither dealt with nor given back */
	bool is_direct;
	bool is_reply; /* of an agent, to messages of the conversation */
	pg_uuid_t id;  /* of the conversation, or of the dead letter */
	pg_uuid_t lock_id;
	TimestampTz leased_until;
	wahook_Direct entry;
	Hold hold;                     /* what came of the last try */
	bool put_off;                  /* not run after all */
	const wahook_Failure *failure; /* to be recorded */
} Work;

static Work work;
static MemoryContext work_context; /* of what the work points to */

static wahook_Plan claim_plan =
	{"SELECT c.conversation_id FROM @extschema@.claim_conversations(1, $1, $2, $3) c",
	 3,
	 {UUIDOID, TEXTOID, INTERVALOID}};

static wahook_Plan extend_plan =
	{"UPDATE @extschema@.webhook_conversations SET lock_expires_at = $2 WHERE id = $1",
	 2,
	 {UUIDOID, TIMESTAMPTZOID}};

static wahook_Plan more_plan =
	{"SELECT FROM @extschema@.webhook_services s WHERE s.kind = 'sql' AND s.enabled AND EXISTS ("
	 "SELECT FROM @extschema@.webhook_conversation_queue q WHERE q.service = s.name"
	 " AND q.due_at <= $1) LIMIT 1",
	 1,
	 {TIMESTAMPTZOID}};

void
wahook_prepare_handler_runs(void)
{
	work_context =
		AllocSetContextCreate(TopMemoryContext, "wahook handler work", ALLOCSET_DEFAULT_SIZES);
	wahook_end_process_after_ms(GRACE_MS);
	wahook_sigterm_hook = wahook_cancel_handler;
}

static int
longest_call_ms(void)
{
	int timeout_ms = work.handler.timeout_ms;

	return GRACE_MS + (timeout_ms > 0 ? Min(timeout_ms, LONGEST_CALL_MS) : LONGEST_CALL_MS);
}

static int64
lease_us(void)
{
	return (longest_call_ms() + LEASE_MARGIN_MS) * INT64CONST(1000);
}

/* --- claiming --- */

static bool
use_handler(const wahook_Handler *handler, const char *service)
{
	MemoryContext old;

	if (handler->problem != NULL)
	{
		wahook_warn_once(psprintf("handler of service \"%s\"", service),
						 unpack_sql_state(ERRCODE_UNDEFINED_FUNCTION), handler->problem);
		work.put_off = true;
		return false;
	}
	work.handler = *handler;
	old = MemoryContextSwitchTo(work_context);
	work.handler.service = pstrdup(service);
	MemoryContextSwitchTo(old);
	return true;
}

static void
claim_conversation(void)
{
	Interval *lease = palloc0(sizeof(Interval));
	Datum values[] = {UUIDPGetDatum(&work.lock_id), CStringGetTextDatum(work.handler.service),
					  IntervalPGetDatum(lease)};
	bool isnull;

	lease->time = lease_us();
	if (wahook_execute(&claim_plan, values, NULL) == 0)
		return;
	work.id = *DatumGetUUIDP(wahook_result(0, 1, &isnull));
	work.is_there = true;
}

static void
take_entry(TimestampTz now)
{
	if (!wahook_take_direct(work.handler.service, now, work.leased_until, &work.entry))
		return;
	work.id = work.entry.id;
	work.is_there = work.is_direct = true;
}

/* The worker starts processes one by one, as long as there is something to do for another one. */
static void
call_for_others(TimestampTz now)
{
	wahook_HandlerCensus census = wahook_count_handlers();
	Datum value = TimestampTzGetDatum(now);

	if (census.idle == 0 && census.starting == 0 && census.all < wahook_handler_workers &&
		wahook_execute(&more_plan, &value, NULL) > 0)
		wahook_note_work(WAHOOK_WORK_DELIVER);
}

static void
claim(void *arg)
{
	TimestampTz now = GetCurrentTimestamp();

	wahook_Handler *handlers;

	if (wahook_find_handlers(arg, &handlers) == 0 || !use_handler(handlers, arg))
		return;
	wahook_new_uuid(&work.lock_id);
	work.leased_until = now + lease_us();
	claim_conversation();
	if (!work.is_there)
		take_entry(now);
	if (work.is_there)
		call_for_others(now);
}

static void
claim_reply(void *arg)
{
	wahook_Handler handler;

	if (!wahook_find_reply_handler(arg, &handler) || !use_handler(&handler, arg))
		return;
	work.is_there = work.is_reply =
		wahook_take_reply(arg, GetCurrentTimestamp() + lease_us(), &work.id, &work.lock_id);
}

/* --- a conversation --- */

/* Row-locks the conversation, so that nobody can be in the way of its completion. Never waits. */
static Hold
hold(wahook_Conversation *conversation)
{
	wahook_RowReader rows;
	wahook_RowState state;
	Hold result = BUSY;

	wahook_open_conversations(&rows);
	state = wahook_peek_conversation(&rows, &work.id, conversation);
	if (state == WAHOOK_ROW_NONE || !conversation->locked ||
		memcmp(&conversation->locked_by, &work.lock_id, sizeof(pg_uuid_t)) != 0)
		result = LOST;
	else if (state == WAHOOK_ROW_STEADY && wahook_try_lock_row(&rows))
		result = HELD;
	wahook_close_rows(&rows);
	if (result == LOST)
		work.is_there = false;
	return work.hold = result;
}

static void
give_conversation_back(void)
{
	wahook_give_lock_back(&work.id, &work.lock_id);
	work.is_there = false;
}

/* Together with the attempt: while that runs the row lock keeps the others away. */
static void
extend_lease(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Datum values[2];

	if (work.leased_until - now >= longest_call_ms() * INT64CONST(1000))
		return;
	work.leased_until = now + lease_us();
	values[0] = UUIDPGetDatum(&work.id);
	values[1] = TimestampTzGetDatum(work.leased_until);
	wahook_execute(&extend_plan, values, NULL);
}

/* The next message, or all of them where the handler takes bursts. */
static void
run_next(void *arg)
{
	wahook_Conversation conversation;
	wahook_Task *tasks;
	wahook_Failure failure;
	wahook_Outcome outcome = WAHOOK_SUCCEEDED;
	bool more = false;
	int n;

	if (hold(&conversation) != HELD)
		return;
	n = conversation.claimed == NULL
			? 0
			: wahook_read_tasks(&conversation, conversation.claimed,
								work.handler.bursts ? PG_INT32_MAX : 2, &tasks);
	if (n > 0)
	{
		more = n > 1 && !work.handler.bursts;
		if (more)
			extend_lease();
		outcome = wahook_attempt(&conversation, &work.handler, tasks, more ? 1 : n, &failure);
	}
	work.put_off = outcome == WAHOOK_REFUSED || outcome == WAHOOK_BUSY;
	if (!more || work.put_off || (outcome != WAHOOK_SUCCEEDED && work.handler.strict_order))
		give_conversation_back();
}

/* What run_next() was at has failed, and could not say so itself. */
static void
fail_next(void *arg)
{
	wahook_Conversation conversation;
	wahook_Task *tasks;
	int n;

	if (hold(&conversation) != HELD || conversation.claimed == NULL)
		return;
	n = wahook_read_tasks(&conversation, conversation.claimed,
						  work.handler.bursts ? PG_INT32_MAX : 1, &tasks);
	if (n > 0)
		(void) wahook_attempt_failed(&conversation, &work.handler, tasks, n, work.failure);
	give_conversation_back();
}

/* --- the reply of an agent --- */

static void
run_reply(void *arg)
{
	wahook_Conversation conversation;
	wahook_Outcome outcome;

	if (hold(&conversation) == HELD)
	{
		outcome = wahook_give_reply(&conversation, &work.handler);
		work.put_off = outcome == WAHOOK_REFUSED || outcome == WAHOOK_BUSY;
		give_conversation_back();
	}
	else if (work.hold == LOST)
		wahook_leave_reply(&work.id, work.handler.service);
}

static void
fail_reply(void *arg)
{
	wahook_Conversation conversation;

	if (hold(&conversation) != HELD)
		return;
	(void) wahook_fail_reply(&conversation, &work.handler, work.failure);
	give_conversation_back();
}

/* --- a dead letter without a conversation --- */

static bool
hold_entry(void)
{
	work.hold = wahook_hold_direct(&work.id, work.leased_until) ? HELD : BUSY;
	return work.hold == HELD;
}

static void
give_entry_back(void)
{
	wahook_give_direct_back(&work.id);
	work.is_there = false;
}

static void
run_entry(void *arg)
{
	wahook_Failure failure;

	if (!hold_entry())
		return;
	work.put_off = wahook_attempt_direct(&work.entry, &work.handler, &failure) == WAHOOK_REFUSED;
	if (work.put_off)
		give_entry_back();
	work.is_there = false;
}

static void
fail_entry(void *arg)
{
	if (!hold_entry())
		return;
	(void) wahook_attempt_direct_failed(&work.entry, &work.handler, work.failure);
	work.is_there = false;
}

/* --- all of it --- */

static void
give_back(void *arg)
{
	wahook_Conversation conversation;

	if (work.is_direct)
	{
		if (hold_entry())
			give_entry_back();
	}
	else if (hold(&conversation) == HELD)
		give_conversation_back();
}

/*
 * Runs a unit; again, for a little while, where another transaction is in the way. Also where that
 * was met only after the handler had run, by the completion: what it did is undone then. That
 * happens when its dead letter was made due at this moment, and is not tried for long.
 */
static bool
run_unit(void (*unit)(void *arg))
{
	int undone = 0;

	for (int i = 0; i < BUSY_TRIES; i++)
	{
		bool done;

		work.hold = HELD;
		done = wahook_in_transaction(unit, NULL);
		if (!done && (!wahook_unit_was_busy() || ++undone > UNDONE_TRIES))
			return false;
		if (done && work.hold != BUSY)
			return true;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, BUSY_PAUSE_MS,
						 wahook_wait_event(WAHOOK_WAIT_ROW));
		ResetLatch(MyLatch);
	}
	return false;
}

static void (*failing(void))(void *arg)
{
	return work.is_direct ? fail_entry : work.is_reply ? fail_reply : fail_next;
}

/* A transaction that could not be committed, or a row that stayed busy, to the end of the lease. */
static void
fail_work(void)
{
	wahook_Failure failure = {.retryable = true,
							  .delay_us = -1,
							  .is_attempt = true,
							  .started_at = GetCurrentTimestamp()};

	work.put_off = true;
	if (work.hold == BUSY)
		work.is_there = false;
	if (!work.is_there || wahook_is_to_end())
		return;
	failure.error = cstring_to_text("the transaction of the attempt failed, see the server log");
	work.failure = &failure;
	if (!run_unit(failing()))
		work.is_there = false;
}

static wahook_ServiceRun
run(const char *service, void (*claim_work)(void *arg))
{
	MemoryContextReset(work_context);
	work = (Work){0};
	if (!wahook_in_transaction(claim_work, unconstify(char *, service)))
	{
		work.is_there = false;
		return WAHOOK_PUT_OFF;
	}
	if (!work.is_there)
		return work.put_off ? WAHOOK_PUT_OFF : WAHOOK_RAN_NOTHING;
	while (work.is_there && !wahook_is_to_end())
	{
		bool done = run_unit(work.is_direct ? run_entry : work.is_reply ? run_reply : run_next);

		/* Advisory locks that a handler took and kept: perhaps so many that there is no room for another. */
		LockReleaseSession(USER_LOCKMETHOD);
		if (!done)
			fail_work();
	}
	return work.put_off ? WAHOOK_PUT_OFF : WAHOOK_RAN;
}

wahook_ServiceRun
wahook_run_service(const char *service)
{
	return run(service, claim);
}

wahook_ServiceRun
wahook_run_reply(const char *service)
{
	return run(service, claim_reply);
}

/*
 * In a process that is exiting this is called in the midst of whatever it was at. A handler that did
 * not heed its timeout has failed; what else was under way waits again.
 */
void
wahook_give_work_back(void)
{
	wahook_Failure failure;
	bool overran;

	if (!work.is_there || !PostmasterIsAlive())
		return;
	MemoryContextSwitchTo(work_context);
	overran = wahook_overran(&failure);
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(work_context);
	wahook_begin_ending();
	if (overran)
	{
		ereport(LOG, (errmsg("wahook handler of service \"%s\" did not heed its timeout of %d ms",
							 work.handler.service, work.handler.timeout_ms),
					  errdetail("Its process ends with it, and its message has failed.")));
		work.failure = &failure;
		(void) run_unit(failing());
	}
	if (work.is_there)
		(void) run_unit(give_back);
	work.is_there = false;
}
