/*
 * The source that answers for services with an agent: claims what waits, has the model asked, and its
 * reply or the failure recorded. While a model thinks there is no transaction, only a lease.
 *
 * A turn is in one of the lists. What is to be done for it in the tables is done in units, all that
 * there is at a time; what follows from that, or from an answer, moves it to the next list. When the
 * process ends, after a short wait for answers, what is left is given back: a model that has been
 * asked twice has done no harm, and its key was the same.
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/wake.h"
#include "worker/agent_turn.h"
#include "worker/requests.h"
#include "worker/worker.h"

/* What can't be claimed though it is due, or not be done, is tried again after such pauses. */
#define LAST_LOOK_PAUSE_US (60 * USECS_PER_SEC)
#define LAST_TASK_PAUSE_US USECS_PER_SEC

static MemoryContext turns_context;
static dlist_head to_do = DLIST_STATIC_INIT(to_do);     /* a task */
static dlist_head calling = DLIST_STATIC_INIT(calling); /* a model thinks */
static dlist_head pausing = DLIST_STATIC_INIT(pausing); /* until ask_at */
static dlist_head handed = DLIST_STATIC_INIT(handed);   /* its reply waits for the handler */

static dlist_head *const lists[] = {&to_do, &calling, &pausing, &handed};

/* When to look for something to claim, to do again what was busy. */
static TimestampTz look_at = DT_NOBEGIN;
static TimestampTz do_at = DT_NOBEGIN;
static int64 look_pause_us;
static int64 task_pause_us;

static wahook_Turn *
first_of(dlist_head *list)
{
	return dlist_container(wahook_Turn, node, dlist_head_node(list));
}

static void
free_all(dlist_head *list)
{
	while (!dlist_is_empty(list))
	{
		wahook_Turn *turn = first_of(list);

		dlist_delete(&turn->node);
		wahook_free_turn(turn);
	}
}

/* How many turns there are, of a service or of all. */
static int
count(const char *service)
{
	int n = 0;

	for (size_t i = 0; i < lengthof(lists); i++)
	{
		dlist_iter iter;

		dlist_foreach(iter, lists[i])
		{
			wahook_Turn *turn = dlist_container(wahook_Turn, node, iter.cur);

			n += service == NULL || strcmp(turn->service.name, service) == 0;
		}
	}
	return n;
}

static int
free_slots(const wahook_AgentService *service)
{
	return wahook_free_slots(count(service->name), count(NULL), service->concurrency);
}

/* --- calls --- */

static void
on_answer(void *arg, wahook_HttpAnswer *answer)
{
	wahook_Turn *turn = arg;

	turn->answer = answer;
	dlist_delete(&turn->node);
	wahook_judge_call(turn);
	dlist_push_tail(&to_do, &turn->node);
	wahook_source_is_due(&wahook_agents_source);
}

static void
send_next(wahook_Turn *turn)
{
	wahook_http_free_answer(turn->answer);
	turn->answer = NULL;
	if (wahook_send_call(turn, on_answer))
		dlist_push_tail(&calling, &turn->node);
	else
	{
		wahook_judge_call(turn);
		dlist_push_tail(&to_do, &turn->node);
	}
}

/* --- tasks --- */

/* Puts a turn of which the task is done where it belongs from then on. */
static void
go_on(wahook_Turn *turn, dlist_head *busy)
{
	turn->report.is_due = false;
	switch (turn->result)
	{
		case WAHOOK_TURN_OVER:
		case WAHOOK_TURN_NOT_ASKED:
		case WAHOOK_TURN_LOST:
			wahook_free_turn(turn);
			break;
		case WAHOOK_TURN_BUSY:
			dlist_push_tail(busy, &turn->node);
			break;
		case WAHOOK_TURN_CALL:
			send_next(turn);
			break;
		case WAHOOK_TURN_REFUSED:
			wahook_pass_on(turn);
			dlist_push_tail(&to_do, &turn->node);
			break;
		case WAHOOK_TURN_HANDED:
			dlist_push_tail(&handed, &turn->node);
			break;
		case WAHOOK_TURN_PAUSED:
			turn->task = WAHOOK_TURN_PREPARE;
			dlist_push_tail(&pausing, &turn->node);
			break;
	}
}

/* What has not been recorded before its lease is over can't be any more. */
static void
drop_expired(dlist_head *list)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, list)
	{
		wahook_Turn *turn = dlist_container(wahook_Turn, node, iter.cur);

		if (turn->leased_until < now || turn->is_lost)
		{
			dlist_delete(iter.cur);
			wahook_free_turn(turn);
		}
	}
}

/* Does what there is to do, and what follows from it; what can't be done for the moment stays. */
static void
do_tasks(void)
{
	dlist_head busy;
	bool failed = false;

	dlist_init(&busy);
	while (!dlist_is_empty(&to_do) && !failed)
	{
		dlist_head done;
		wahook_DoTurnTasks run = {.to_do = &to_do, .done = &done};

		dlist_init(&done);
		failed = !wahook_in_transaction(wahook_do_turn_tasks, &run);
		if (failed)
			wahook_move_all(&done, &busy);
		while (!dlist_is_empty(&done))
		{
			wahook_Turn *turn = first_of(&done);

			dlist_delete(&turn->node);
			go_on(turn, &busy);
		}
	}
	wahook_move_all(&busy, &to_do);
	drop_expired(&to_do);
	task_pause_us =
		dlist_is_empty(&to_do) ? 0 : wahook_longer_pause(task_pause_us, LAST_TASK_PAUSE_US);
	do_at = GetCurrentTimestamp() + task_pause_us;
}

/* Returns when the first of the others may be asked again. */
static TimestampTz
end_pauses(TimestampTz now)
{
	TimestampTz next = DT_NOEND;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &pausing)
	{
		wahook_Turn *turn = dlist_container(wahook_Turn, node, iter.cur);

		if (turn->ask_at > now)
		{
			next = Min(next, turn->ask_at);
			continue;
		}
		dlist_delete(iter.cur);
		dlist_push_tail(&to_do, &turn->node);
		do_at = now;
	}
	return next;
}

/* --- leases --- */

static void
free_over(dlist_head *list, bool lost)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, list)
	{
		wahook_Turn *turn = dlist_container(wahook_Turn, node, iter.cur);

		if (lost ? turn->is_lost : turn->is_over)
		{
			dlist_delete(iter.cur);
			wahook_free_turn(turn);
		}
	}
}

/* A call that is under way is waited for all the same: libcurl has its turn. */
static void
renew_leases(void)
{
	for (size_t i = 0; i < lengthof(lists); i++)
		if (!dlist_is_empty(lists[i]))
			(void) wahook_in_transaction(wahook_renew_turns, lists[i]);
	free_over(&pausing, true);
	free_over(&handed, true);
}

/* Renews what needs it; returns when the next one will. */
static TimestampTz
see_to_leases(TimestampTz now)
{
	static TimestampTz tried_at = DT_NOBEGIN;
	TimestampTz first = DT_NOEND;

	for (int tries = 0; tries < 2; tries++)
	{
		first = DT_NOEND;
		for (size_t i = 0; i < lengthof(lists); i++)
		{
			dlist_iter iter;

			dlist_foreach(iter, lists[i])
			{
				wahook_Turn *turn = dlist_container(wahook_Turn, node, iter.cur);

				if (!turn->is_lost)
					first = Min(first, turn->leased_until);
			}
		}
		if (first == DT_NOEND)
			return DT_NOEND;
		first -= WAHOOK_TURN_LEASE_MS / 2 * INT64CONST(1000);
		if (first > now || tried_at > now - USECS_PER_SEC)
			break;
		tried_at = now;
		renew_leases();
	}
	return Max(first, tried_at + USECS_PER_SEC);
}

static void
look_at_replies(void)
{
	if (dlist_is_empty(&handed))
		return;
	(void) wahook_in_transaction(wahook_look_at_replies, &handed);
	free_over(&handed, false);
}

/* --- claiming --- */

/*
 * Begins as many turns of a service as it may have. Returns when there will be something to claim, or
 * DT_NOEND where nothing waits, or the end of a turn will tell.
 */
static TimestampTz
claim_for(const wahook_AgentService *service, TimestampTz now)
{
	wahook_ClaimTurns claim = {.service = service,
							   .limit = free_slots(service),
							   .context = turns_context};
	int wanted = claim.limit;

	if (wanted == 0)
		return DT_NOEND;
	if (service->waits_since > now)
		return service->waits_since;
	dlist_init(&claim.claimed);
	if (!wahook_in_transaction(wahook_claim_turns, &claim))
	{
		free_all(&claim.claimed);
		return now;
	}
	if (claim.n > 0)
	{
		look_pause_us = 0;
		do_at = now;
	}
	wahook_move_all(&claim.claimed, &to_do);
	if (claim.n == wanted)
		return DT_NOEND;
	if (claim.retry_at > now && claim.retry_at != DT_NOEND)
		return claim.retry_at;
	return now;
}

/* As deliveries over HTTP do: see there. */
static void
look_for_work(TimestampTz now)
{
	static unsigned first = 0;
	wahook_ReadAgentServices read = {.context = CurrentMemoryContext};
	bool again = false;

	look_at = DT_NOEND;
	if (!wahook_in_transaction(wahook_read_agent_services, &read))
		again = true;
	else
		wahook_source_wants(&wahook_agents_source, read.n > 0
													   ? WAHOOK_WORK_ALL | WAHOOK_WORK_REPLIED
													   : WAHOOK_WORK_CONFIG | WAHOOK_WORK_REPLIED);
	first++;
	for (int i = 0; i < read.n; i++)
	{
		TimestampTz next = claim_for(&read.services[(first + i) % read.n], now);

		if (next > now)
			look_at = Min(look_at, next);
		else
			again = true;
	}
	look_pause_us = again ? wahook_longer_pause(look_pause_us, LAST_LOOK_PAUSE_US) : 0;
	if (again)
		look_at = Min(look_at, now + look_pause_us);
}

/* --- the source --- */

static TimestampTz
agents_turn(TimestampTz now, int heard)
{
	TimestampTz next;
	bool over = false;

	if (turns_context == NULL)
		turns_context =
			AllocSetContextCreate(TopMemoryContext, "wahook turns", ALLOCSET_DEFAULT_SIZES);
	if (heard & WAHOOK_WORK_REPLIED)
		look_at_replies();
	next = end_pauses(now);
	if (!dlist_is_empty(&to_do) && do_at <= now)
	{
		do_tasks();
		over = true;
	}
	if (heard != 0 || over || look_at <= now)
	{
		look_for_work(now);
		if (!dlist_is_empty(&to_do) && do_at <= now)
			do_tasks();
	}
	next = Min(next, end_pauses(now));
	next = Min(next, see_to_leases(now));
	if (!dlist_is_empty(&to_do))
		next = Min(next, do_at);
	return Min(next, look_at);
}

/* What is asked of models from now on is not waited for. */
static void
finish_answers(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &to_do)
	{
		wahook_Turn *turn = dlist_container(wahook_Turn, node, iter.cur);

		if (turn->task != WAHOOK_TURN_PREPARE && turn->task != WAHOOK_TURN_PAUSE)
			continue;
		dlist_delete(iter.cur);
		dlist_push_tail(&pausing, &turn->node);
	}
	if (!dlist_is_empty(&to_do))
		do_tasks();
}

static void
stop(void)
{
	wahook_await_answers(&calling, finish_answers);
	wahook_move_all(&to_do, &pausing);
	wahook_move_all(&calling, &pausing);
	if (!dlist_is_empty(&pausing))
		(void) wahook_in_transaction(wahook_give_turns_back, &pausing);
}

const wahook_Source wahook_agents_source = {.name = "agents",
											.wants = WAHOOK_WORK_CONFIG | WAHOOK_WORK_REPLIED,
											.turn = agents_turn,
											.stop = stop};
