/*
 * The limit at intake: how many messages of each user are accepted, and how fast.
 *
 * Each conversation has a token bucket in webhook_rate_limits, beside those of check_rate_limit(). It
 * may be in debt: a message that finds no token takes the next one that there will be, and waits for
 * it, so the messages of a flood become due one after the other and in their order.
 */
#include "ingest/intake_limit.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/table.h"
#include "core/tables.h"
#include "core/uuid.h"
#include "core/wait.h"
#include "ingest/config.h"

#define BUCKET "intake"

/* No message waits longer than this for its token, in microseconds. */
#define MAX_DEBT_US USECS_PER_DAY

/*
 * How long a delivery waits in all for other transactions that are at the buckets of its users: many
 * times what receiving takes. Only one that is held open after it received takes longer.
 */
#define PATIENCE_US 50000
#define PATIENCE_STEP_US 1000

enum
{
	Anum_limit_identifier = 1,
	Anum_limit_bucket = 2,
	Anum_limit_tokens = 3,
	Anum_limit_refilled_at = 4,
	Natts_limit = 4
};

typedef struct Limiter
{
	const wahook_IntakeLimit *limit;
	TimestampTz now;
	wahook_Table buckets;
	int patience_us;
} Limiter;

typedef struct Bucket
{
	Datum identifier; /* text */
	bool is_new;
	double tokens; /* at refilled_at */
	TimestampTz refilled_at;
} Bucket;

/* Finds and locks the row. False when another transaction has had it for all of the patience. */
static bool
find_row(Limiter *limiter, Datum identifier, bool *found)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], Anum_limit_identifier, BTEqualStrategyNumber, F_TEXTEQ, identifier);
	ScanKeyInit(&keys[1], Anum_limit_bucket, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(BUCKET));
	for (int i = 0; i < 2; i++)
		keys[i].sk_collation = limiter->buckets.rows.index->rd_indcollation[i];
	for (;;)
	{
		wahook_RowState state = wahook_peek_row(&limiter->buckets.rows, keys, 2);

		*found = state != WAHOOK_ROW_NONE;
		if (!*found || (state == WAHOOK_ROW_STEADY && wahook_try_lock_row(&limiter->buckets.rows)))
			return true;
		if (limiter->patience_us <= 0)
			return false;
		CHECK_FOR_INTERRUPTS();
		wahook_pause(WAHOOK_WAIT_ROW, PATIENCE_STEP_US);
		limiter->patience_us -= PATIENCE_STEP_US;
	}
}

/* The bucket as it is now. Full where the user has none, or a crash emptied the table. */
static bool
open_bucket(Limiter *limiter, const pg_uuid_t *conversation_id, Bucket *bucket)
{
	TupleTableSlot *slot = limiter->buckets.rows.slot;
	bool found;
	bool isnull;
	double refilled;

	*bucket = (Bucket){.identifier = CStringGetTextDatum(wahook_uuid_text(conversation_id)),
					   .tokens = limiter->limit->max_tokens,
					   .refilled_at = limiter->now};
	if (!find_row(limiter, bucket->identifier, &found))
		return false;
	bucket->is_new = !found;
	if (!found)
		return true;

	/* The clock of another session may be ahead: then nothing has been refilled since. */
	bucket->tokens = DatumGetFloat8(slot_getattr(slot, Anum_limit_tokens, &isnull));
	bucket->refilled_at = DatumGetTimestampTz(slot_getattr(slot, Anum_limit_refilled_at, &isnull));
	refilled = limiter->limit->refill_per_second *
			   (double) Max(limiter->now - bucket->refilled_at, 0) / USECS_PER_SEC;
	bucket->tokens = Min(bucket->tokens + refilled, limiter->limit->max_tokens);
	bucket->refilled_at = Max(bucket->refilled_at, limiter->now);
	return true;
}

/* Where another transaction inserts the bucket at this moment, what it says holds. */
static void
write_bucket(Limiter *limiter, const Bucket *bucket)
{
	Datum values[WAHOOK_MAX_COLUMNS] = {[Anum_limit_identifier - 1] = bucket->identifier,
										[Anum_limit_bucket - 1] = CStringGetTextDatum(BUCKET),
										[Anum_limit_tokens - 1] = Float8GetDatum(bucket->tokens),
										[Anum_limit_refilled_at - 1] =
											TimestampTzGetDatum(bucket->refilled_at)};
	static const bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	static const bool replace[WAHOOK_MAX_COLUMNS] = {[Anum_limit_tokens - 1] = true,
													 [Anum_limit_refilled_at - 1] = true};

	if (bucket->is_new)
		(void) wahook_insert_new_row(&limiter->buckets, values, nulls, Natts_limit);
	else if (!wahook_update_row(&limiter->buckets, values, nulls, replace))
		elog(ERROR, "rate limit was changed although it is locked");
}

/* Takes a token for the message, or decides what is to become of it without one. */
static void
spend(const Limiter *limiter, Bucket *bucket, wahook_Outcome *message)
{
	double wait_us;

	if (bucket->tokens >= 1)
	{
		bucket->tokens--;
		return;
	}
	message->outcome = "rate_limited";
	message->dropped = limiter->limit->drops;
	if (message->dropped)
		return;
	wait_us = (1 - bucket->tokens) / limiter->limit->refill_per_second * USECS_PER_SEC;
	if (!(wait_us <= MAX_DEBT_US)) /* what is no number either */
		wait_us = MAX_DEBT_US;
	else
		bucket->tokens--;
	message->due_at = bucket->refilled_at + (int64) wait_us;
}

/* The messages of one conversation: n of them from the first on. */
static void
limit_conversation(Limiter *limiter, wahook_Outcome **messages, int n)
{
	Bucket bucket;
	double before;

	if (!open_bucket(limiter, &messages[0]->conversation_id, &bucket))
		return;
	before = bucket.tokens;
	for (int i = 0; i < n; i++)
		spend(limiter, &bucket, messages[i]);
	if (bucket.tokens != before)
		write_bucket(limiter, &bucket);
}

/* Dropping is recorded like an attempt: it is how the message ended. */
static void
record_dropped(const Limiter *limiter, wahook_Outcome **messages, int n)
{
	Datum values[WAHOOK_MAX_COLUMNS] = {0};
	bool nulls[WAHOOK_MAX_COLUMNS] = {false};
	wahook_Table attempts;
	int ndropped = 0;

	for (int i = 0; i < n; i++)
		ndropped += messages[i]->dropped;
	if (ndropped == 0)
		return;
	wahook_open_table(&attempts, "webhook_attempts", "webhook_attempts_pkey");
	values[Anum_attempt_outcome - 1] = CStringGetTextDatum("dropped");
	values[Anum_attempt_finished_at - 1] = TimestampTzGetDatum(limiter->now);
	values[Anum_attempt_error - 1] =
		CStringGetTextDatum("more messages than the bucket \"" BUCKET "\" allows its user");
	for (int i = 0; i < n; i++)
	{
		if (!messages[i]->dropped)
			continue;
		values[Anum_attempt_message_id - 1] = UUIDPGetDatum(&messages[i]->message_id);
		values[Anum_attempt_seq - 1] = wahook_next_value(&attempts);
		values[Anum_attempt_conversation_id - 1] = UUIDPGetDatum(&messages[i]->conversation_id);
		values[Anum_attempt_service - 1] = CStringGetTextDatum(messages[i]->service);
		for (int attnum = 1; attnum <= Natts_attempt; attnum++)
			nulls[attnum - 1] = values[attnum - 1] == (Datum) 0 && attnum != Anum_attempt_attempt;
		wahook_insert_row(&attempts, values, nulls, Natts_attempt);
	}
	wahook_close_table(&attempts);
}

/* By conversation, so that two deliveries go through their users in one order; then as they came. */
static int
compare_messages(const void *a, const void *b)
{
	const wahook_Outcome *const *left = a;
	const wahook_Outcome *const *right = b;
	int order = memcmp(&(*left)->conversation_id, &(*right)->conversation_id, sizeof(pg_uuid_t));

	if (order != 0)
		return order;
	return *left < *right ? -1 : 1; /* they lie in one array, in order of arrival */
}

void
wahook_limit_intake(wahook_Intake *intake, wahook_Outcome **messages, int n)
{
	Limiter limiter = {.limit = &wahook_config()->intake,
					   .now = intake->now,
					   .patience_us = PATIENCE_US};
	wahook_Outcome **accepted;
	int naccepted = 0;
	int next;

	if (!limiter.limit->enabled)
		return;
	accepted = palloc_array(wahook_Outcome *, n);
	for (int i = 0; i < n; i++)
		if (messages[i]->accepted)
			accepted[naccepted++] = messages[i];
	qsort(accepted, naccepted, sizeof(wahook_Outcome *), compare_messages);
	wahook_open_table_for_new_rows(&limiter.buckets, "webhook_rate_limits",
								   "webhook_rate_limits_pkey");
	for (int i = 0; i < naccepted; i = next)
	{
		next = i + 1;
		while (next < naccepted && memcmp(&accepted[i]->conversation_id,
										  &accepted[next]->conversation_id, sizeof(pg_uuid_t)) == 0)
			next++;
		limit_conversation(&limiter, &accepted[i], next - i);
	}
	wahook_close_table(&limiter.buckets);
	record_dropped(&limiter, accepted, naccepted);
}
