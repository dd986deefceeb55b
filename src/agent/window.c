/*
 * The window: fixed messages first, then units from the newest back for as long as they fit.
 *
 * - A quarter of the budget is the newest unit's, as far as it needs it, and up to half where it
 *   can't be shortened to that: fixed messages that leave less are shortened, pinned ones before
 *   system prompts, the largest first.
 * - The newest unit is shortened to the room that there is. So is the one at which the window ends,
 *   where it is so large that it could not be whole even alone.
 * - What can't be shortened enough is left out: the budget holds whatever the input.
 */
#include "agent/window.h"

#include <stdlib.h>
#include <string.h>

/* The newest unit can count on this share of the budget. */
#define NEWEST_SHARE 4

/* An older message is not shortened to less than this above its floor: nothing of use would be left. */
#define MIN_SHORTENED 16

/* By id, then in the order of the conversation. */
static int
compare_refs(const void *a, const void *b)
{
	const wahook_ToolRef *left = a;
	const wahook_ToolRef *right = b;
	int order;

	if (left->id_len != right->id_len)
		return left->id_len < right->id_len ? -1 : 1;
	order = left->id_len == 0 ? 0 : memcmp(left->id, right->id, left->id_len);
	if (order != 0)
		return order;
	return left->item != right->item ? (left->item < right->item ? -1 : 1)
									 : (int) left->result - (int) right->result;
}

static bool
same_id(const wahook_ToolRef *a, const wahook_ToolRef *b)
{
	return a->id_len == b->id_len && (a->id_len == 0 || memcmp(a->id, b->id, a->id_len) == 0);
}

/* A result belongs to the last call of its id before it. A call that nothing answers is broken, but at the very end. */
static void
match_refs(wahook_WindowItem *items, const wahook_ToolRef *refs, int n_refs, int last_other)
{
	int call = -1; /* the place in refs of the last call of this id */
	bool answered = false;

	for (int i = 0; i <= n_refs; i++)
	{
		bool same = i < n_refs && call >= 0 && same_id(&refs[i], &refs[call]);

		if (same && refs[i].result)
		{
			items[refs[i].item].head = refs[call].item;
			answered = true;
			continue;
		}
		if (call >= 0 && !answered && refs[call].item < last_other)
			items[refs[call].item].broken = true;
		call = -1;
		answered = false;
		if (i == n_refs)
			break;
		if (refs[i].result)
			items[refs[i].item].broken = true;
		else
			call = i;
	}
}

void
wahook_link_tools(wahook_WindowItem *items, int n, wahook_ToolRef *refs, int n_refs)
{
	int last_other = n - 1; /* the last message that is no result */

	for (int i = 0; i < n; i++)
	{
		items[i].head = i;
		items[i].next = -1;
	}
	if (n_refs == 0)
		return;

	/* Results stand in the order of the conversation before they are sorted. */
	for (int i = n_refs - 1; i >= 0 && last_other >= 0; i--)
	{
		if (refs[i].result && refs[i].item == last_other)
			last_other--;
		else if (refs[i].item < last_other)
			break;
	}
	qsort(refs, n_refs, sizeof(*refs), compare_refs);
	match_refs(items, refs, n_refs, last_other);
	for (int i = n - 1; i >= 0; i--)
	{
		wahook_WindowItem *head = &items[items[i].head];

		if (head == &items[i])
			continue;
		items[i].next = head->next;
		head->next = i;
		head->fixed = head->fixed || items[i].fixed;
	}
	for (int i = 0; i < n; i++)
	{
		items[i].broken = items[i].broken || items[items[i].head].broken;
		items[i].fixed = items[items[i].head].fixed;
	}
}

static int64_t
cost_of(wahook_Window *window, int item)
{
	wahook_WindowItem *it = &window->items[item];

	if (it->cost < 0)
		it->cost = window->cost(window->arg, item);
	return it->cost;
}

static int64_t
floor_of(wahook_Window *window, int item)
{
	wahook_WindowItem *it = &window->items[item];

	if (it->floor < 0)
	{
		int64_t cost = cost_of(window, item);
		int64_t floor = window->floor(window->arg, item);

		it->floor = floor < cost ? floor : cost;
	}
	return it->floor;
}

static int64_t
at_most(int64_t value, int64_t limit)
{
	return value < limit ? value : limit;
}

/* What a message gets at a level: its cost up to the level, but no less than its floor. */
static int64_t
share_at(wahook_Window *window, int item, int64_t level)
{
	int64_t share = at_most(cost_of(window, item), level);

	return share > floor_of(window, item) ? share : floor_of(window, item);
}

static void
refuse_unit(wahook_Window *window, int item)
{
	for (int i = window->items[item].head; i >= 0; i = window->items[i].next)
	{
		window->items[i].refused = true;
		window->items[i].state = WAHOOK_WINDOW_OUT;
	}
}

/* What is kept of the unit. */
static int64_t
kept_of_unit(const wahook_Window *window, int item)
{
	int64_t kept = 0;

	for (int i = window->items[item].head; i >= 0; i = window->items[i].next)
		kept += window->items[i].cost;
	return kept;
}

static void
keep_whole(wahook_Window *window, int head)
{
	for (int i = head; i >= 0; i = window->items[i].next)
		window->items[i].state = WAHOOK_WINDOW_WHOLE;
}

static bool
is_worth_shortening(wahook_Window *window, int head, int64_t room)
{
	int64_t needed = 0;

	for (int i = head; i >= 0; i = window->items[i].next)
		needed += floor_of(window, i) + MIN_SHORTENED;
	return needed <= room;
}

/*
 * Shares out the room among n listed messages: the same for each, the rest of those that need less
 * to the others. Their floors fit. Returns the level.
 */
static int64_t
find_level(wahook_Window *window, const int *list, int n, int64_t room)
{
	int64_t low = 0;
	int64_t high = window->max_tokens;

	while (low < high)
	{
		int64_t level = low + (high - low + 1) / 2;
		int64_t sum = 0;

		for (int i = 0; i < n && sum <= room; i++)
			sum += share_at(window, list[i], level);
		if (sum <= room)
			low = level;
		else
			high = level - 1;
	}
	return low;
}

/* Keeps a message, whole or with its share. False: it could not be shortened. */
static bool
keep_at(wahook_Window *window, int item, int64_t level)
{
	wahook_WindowItem *it = &window->items[item];
	int64_t share = share_at(window, item, level);
	int64_t cost;

	if (it->cost <= share)
	{
		it->state = WAHOOK_WINDOW_WHOLE;
		return true;
	}
	cost = window->shorten(window->arg, item, share);
	if (cost < 0 || cost > share)
		return false;
	it->state = WAHOOK_WINDOW_SHORTENED;
	it->cost = cost;
	return true;
}

/* Keeps a unit in the room. False: it can't be shortened to it, and is refused. */
static bool
keep_unit(wahook_Window *window, int head, int64_t room)
{
	int n = 0;
	int64_t floors = 0;
	int64_t level;

	for (int i = head; i >= 0; i = window->items[i].next)
	{
		window->list[n++] = i;
		floors += floor_of(window, i);
	}
	if (floors <= room)
	{
		level = find_level(window, window->list, n, room);
		for (int i = 0; i < n && floors >= 0; i++)
			if (!keep_at(window, window->list[i], level))
				floors = -1;
		if (floors >= 0)
			return true;
	}
	refuse_unit(window, head);
	return false;
}

static int64_t
unit_cost(wahook_Window *window, int head, int *members)
{
	int64_t cost = 0;

	*members = 0;
	for (int i = head; i >= 0; i = window->items[i].next)
	{
		cost += cost_of(window, i);
		++*members;
	}
	return cost;
}

static bool
is_fixed(const wahook_WindowItem *item)
{
	return item->fixed && !item->broken && !item->refused;
}

static bool
is_movable(const wahook_WindowItem *item)
{
	return !item->fixed && !item->broken && !item->refused;
}

/* Refuses fixed units until the floors of the others fit: pinned ones from the oldest, system prompts from the newest. */
static void
fit_floors(wahook_Window *window, int64_t room)
{
	int64_t floors = 0;

	for (int i = 0; i < window->n; i++)
		if (is_fixed(&window->items[i]))
			floors += floor_of(window, i);
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < window->n && floors > room; i++)
		{
			int item = pass == 0 ? i : window->n - 1 - i;

			if (!is_fixed(&window->items[item]) || window->items[item].system != (pass == 1))
				continue;
			for (int j = window->items[item].head; j >= 0; j = window->items[j].next)
				floors -= floor_of(window, j);
			refuse_unit(window, item);
		}
}

/* Keeps the fixed messages in a room that is too small for all of them. Returns what it took. */
static int64_t
keep_some_fixed(wahook_Window *window, int64_t room)
{
	int64_t systems = 0;
	int64_t pinned_floors = 0;
	int64_t left = room;
	int64_t level;
	bool spare_systems;
	int n = 0;

	fit_floors(window, room);
	for (int i = 0; i < window->n; i++)
		if (is_fixed(&window->items[i]))
		{
			if (window->items[i].system)
				systems += cost_of(window, i);
			else
				pinned_floors += floor_of(window, i);
		}
	spare_systems = systems + pinned_floors <= room;
	for (int i = 0; i < window->n; i++)
		if (is_fixed(&window->items[i]) && !(spare_systems && window->items[i].system))
			window->list[n++] = i;
	level = find_level(window, window->list, n, spare_systems ? room - systems : room);
	for (int i = 0; i < window->n; i++)
		if (is_fixed(&window->items[i]) &&
			!keep_at(window, i,
					 spare_systems && window->items[i].system ? window->max_tokens : level))
			refuse_unit(window, i);
	for (int i = 0; i < window->n; i++)
		if (is_fixed(&window->items[i]))
			left -= window->items[i].cost;
	return room - left;
}

/* What the newest unit can count on: as much as it needs of its share, and if it can be, enough to be kept at all. */
static int64_t
reserve_for_newest(wahook_Window *window)
{
	const int64_t share = window->max_tokens / NEWEST_SHARE;
	int newest = window->n - 1;
	int members;
	int64_t cost;
	int64_t floors = 0;

	while (newest >= 0 && !is_movable(&window->items[newest]))
		newest--;
	if (newest < 0)
		return 0;
	newest = window->items[newest].head;
	cost = unit_cost(window, newest, &members);
	if (cost <= share)
		return cost;
	for (int i = newest; i >= 0; i = window->items[i].next)
		floors += floor_of(window, i);
	return floors > share && floors <= window->max_tokens / 2 ? floors : share;
}

/* Returns what the fixed messages take. */
static int64_t
keep_fixed(wahook_Window *window)
{
	int64_t room = window->max_tokens;
	int64_t cost = 0;

	for (int i = 0; i < window->n; i++)
		if (is_fixed(&window->items[i]))
			cost += cost_of(window, i);
	if (cost > 0)
		room -= reserve_for_newest(window);
	if (cost > room)
		return keep_some_fixed(window, room);
	for (int i = 0; i < window->n; i++)
		if (is_fixed(&window->items[i]))
			window->items[i].state = WAHOOK_WINDOW_WHOLE;
	return cost;
}

int64_t
wahook_choose_window(wahook_Window *window)
{
	const int64_t all = window->max_tokens - keep_fixed(window);
	int64_t room = all;
	bool full = false; /* a unit was shortened to what was left */
	int messages = 0;

	for (int i = window->n - 1; i >= 0 && !full; i--)
	{
		wahook_WindowItem *item = &window->items[i];
		int64_t cost;
		int members;

		if (messages > 0 && messages >= window->max_messages)
			break;
		if (!is_movable(item) || item->state != WAHOOK_WINDOW_OUT)
			continue;
		cost = unit_cost(window, item->head, &members);
		if (messages > 0 && members > window->max_messages - messages)
			break;
		if (cost <= room)
			keep_whole(window, item->head);
		else
		{
			if (messages > 0 && (cost <= all || !is_worth_shortening(window, item->head, room)))
				break;
			full = keep_unit(window, item->head, room);
			if (!full && messages > 0)
				break;
			if (!full)
				continue;
		}
		room -= kept_of_unit(window, item->head);
		messages += members;
	}
	return window->max_tokens - room;
}
