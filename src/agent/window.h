/*
 * Which messages of a conversation are sent to a model that has room for so many tokens. Pure: what
 * a message costs, and how it is shortened, is asked of the caller.
 *
 * Unit: messages that only make sense together, a call of tools with its results; any other message
 * is a unit alone. A unit is kept or left out as a whole.
 * Fixed: kept before all others, the system prompt and pinned messages.
 * Floor: the least that a message can be shortened to.
 */
#ifndef WAHOOK_WINDOW_H
#define WAHOOK_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

typedef enum wahook_WindowState
{
	WAHOOK_WINDOW_OUT, /* left out, or not decided yet */
	WAHOOK_WINDOW_WHOLE,
	WAHOOK_WINDOW_SHORTENED
} wahook_WindowState;

typedef struct wahook_WindowItem
{
	bool system;
	bool fixed;   /* system or pinned, or in a unit with one that is */
	bool broken;  /* a call without its results, or a result without its call: it can't be sent */
	bool refused; /* there was no room for it */
	int head;     /* the first message of its unit */
	int next;     /* the next message of its unit, or -1 */
	wahook_WindowState state;
	int64_t cost;  /* -1 until asked for; when shortened, what is left of it */
	int64_t floor; /* the same */
} wahook_WindowItem;

/* A call of a tool, or a result of one. A message has calls, or is one result, never both. */
typedef struct wahook_ToolRef
{
	const char *id;
	int id_len;
	int item;
	bool result;
} wahook_ToolRef;

typedef struct wahook_Window
{
	wahook_WindowItem *items; /* oldest first */
	int *list;                /* room for as many numbers */
	int n;
	int64_t max_tokens;
	int max_messages; /* besides the fixed ones */

	void *arg;
	int64_t (*cost)(void *arg, int item);
	int64_t (*floor)(void *arg, int item); /* its cost where it can't be shortened */
	/* Shortens it to at most limit tokens and returns what it costs then, or -1: it can't. */
	int64_t (*shorten)(void *arg, int item, int64_t limit);
} wahook_Window;

/* Makes units of calls and their results. The refs come in the order of the items; they are left in another. */
extern void wahook_link_tools(wahook_WindowItem *items, int n, wahook_ToolRef *refs, int n_refs);

/* Decides on each item. Returns what those that are kept cost: at most max_tokens. */
extern int64_t wahook_choose_window(wahook_Window *window);

#endif
