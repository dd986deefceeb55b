/*
 * The leases of turns: renewed while a model thinks or a reply waits for its handler, and given back.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "conversation/lock.h"
#include "core/plan.h"
#include "worker/agent_turn.h"
#include "worker/worker.h"

static wahook_Plan renew_plan = {"SELECT @extschema@.renew_conversation_lock($1, $2, $3)",
								 3,
								 {UUIDOID, UUIDOID, INTERVALOID}};

/* A service may have got another kind, and its handler will not be run then. */
static wahook_Plan handed_plan =
	{"SELECT s.kind = 'agent' AND s.reply_handler IS NOT NULL"
	 " FROM @extschema@.webhook_agent_replies r JOIN @extschema@.webhook_services s"
	 " ON s.name = r.service WHERE r.conversation_id = $1 AND r.service = $2 AND r.lock_id = $3",
	 3,
	 {UUIDOID, TEXTOID, UUIDOID}};

/* A unit on the turns of a list, each in a subtransaction of its own. */
static void
for_all(dlist_head *turns, void (*step)(void *arg))
{
	dlist_iter iter;

	dlist_foreach(iter, turns)
	{
		ErrorData *error = wahook_try_alone(step, dlist_container(wahook_Turn, node, iter.cur));

		if (error != NULL && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			wahook_warn_of_error("lease of an agent's turn", error);
	}
}

static void
renew(void *arg)
{
	wahook_Turn *turn = arg;
	Interval lease = {.time = WAHOOK_TURN_LEASE_MS * INT64CONST(1000)};
	Datum values[] = {UUIDPGetDatum(&turn->id), UUIDPGetDatum(&turn->lock_id),
					  IntervalPGetDatum(&lease)};
	bool lost;
	Datum until;

	if (turn->is_lost || !wahook_turn_needs_renewal(turn, GetCurrentTimestamp()))
		return;
	wahook_execute(&renew_plan, values, NULL);
	until = wahook_result(0, 1, &lost);
	turn->is_lost = lost;
	if (!lost)
		turn->leased_until = DatumGetTimestampTz(until);
}

void
wahook_renew_turns(void *arg)
{
	for_all(arg, renew);
}

bool
wahook_turn_needs_renewal(const wahook_Turn *turn, TimestampTz now)
{
	return turn->leased_until - now <= WAHOOK_TURN_LEASE_MS / 2 * INT64CONST(1000);
}

static void
give_back(void *arg)
{
	wahook_Turn *turn = arg;

	wahook_give_lock_back(&turn->id, &turn->lock_id);
}

void
wahook_give_turns_back(void *arg)
{
	for_all(arg, give_back);
}

static void
look_at_reply(void *arg)
{
	wahook_Turn *turn = arg;
	Datum values[] = {UUIDPGetDatum(&turn->id), CStringGetTextDatum(turn->service.name),
					  UUIDPGetDatum(&turn->lock_id)};
	bool waits = wahook_execute(&handed_plan, values, NULL) > 0;
	bool isnull;

	if (waits && !DatumGetBool(wahook_result(0, 1, &isnull)))
	{
		give_back(turn);
		waits = false;
	}
	turn->is_over = !waits;
}

void
wahook_look_at_replies(void *arg)
{
	for_all(arg, look_at_reply);
}
