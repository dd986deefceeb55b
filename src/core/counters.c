/*
 * Counting: what a transaction counts is noted in a journal, and added to the block of its database
 * when it commits.
 *
 * The journal has an entry for each value that was counted, so it is bounded however much a
 * transaction does. A subtransaction begins a new part of it, which is cut off when it is rolled back
 * and added to the part before when it is not.
 *
 * key: a value of the journal. The same number as in the block, but that a label is known by the
 * number that this session gave it; the block's is looked up at the commit, so that a name that
 * nothing was counted under takes no room there.
 */
#include "core/counter_block.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "core/compat.h"

/* A journal with more entries than that is not kept for the next transaction. */
#define KEPT_ENTRIES 256

typedef struct Entry
{
	uint64 n;
	int32 key;
	int32 outer; /* the entry of the same key in an outer part of the journal, or -1 */
} Entry;

static Entry *journal = NULL;
static int nentries = 0;
static int capacity = 0;

/* Where the part of the subtransaction that is under way begins; and, by level, of all. */
static int part_begin = 0;
static int *part_begins = NULL;
static int nlevels = 0;

/* Where an entry of each key may be. What is there counts only if it is one. */
static int32 last_entry[WAHOOK_NVALUES];

/* This session's numbers for labels, and the block's where the generation is the block's. */
typedef struct KnownLabel
{
	char name[NAMEDATALEN];
	int number; /* in the block; -1: not asked for yet */
} KnownLabel;

static KnownLabel known_labels[WAHOOK_NLABELSETS][WAHOOK_MAX_LABELS];
static int nknown_labels[WAHOOK_NLABELSETS];
static uint32 known_generation = 0;

static wahook_CounterBlock *block = NULL;
static bool is_ready = false;

/* What this transaction does to the extension and to databases; see core/counters.h. */
static bool extension_changes = false;
static Oid extension_before = InvalidOid;
static Oid extension_after = InvalidOid;
static Oid dropped_database = InvalidOid;

/* --- the block --- */

/* Null where there is no room for one more database. */
static wahook_CounterBlock *
find_block(void)
{
	if (block == NULL || pg_atomic_read_u32(&block->database) != MyDatabaseId)
		block = wahook_take_block(MyDatabaseId);
	if (block != NULL && pg_atomic_read_u32(&block->generation) != known_generation)
	{
		known_generation = pg_atomic_read_u32(&block->generation);
		for (int set = 0; set < WAHOOK_NLABELSETS; set++)
			for (int i = 0; i < nknown_labels[set]; i++)
				known_labels[set][i].number = -1;
	}
	return block;
}

static int
family_of(int key)
{
	int family = WAHOOK_NFAMILIES - 1;

	while (key < wahook_family_layouts[family].first)
		family--;
	return family;
}

/* The value of the block that a key stands for. */
static int
value_of(int key)
{
	const wahook_FamilyLayout *layout;
	KnownLabel *label;
	int own;

	if (key < WAHOOK_FIRST_HTTP)
		return key;
	layout = &wahook_family_layouts[family_of(key)];
	own = (key - layout->first) / layout->nresults;
	if (own == wahook_max_labels[layout->set])
		return key;
	label = &known_labels[layout->set][own];
	if (label->number < 0)
		label->number = wahook_label_number(block, layout->set, label->name);
	return key + (label->number - own) * layout->nresults;
}

static void
add(int key, uint64 n)
{
	if (find_block() != NULL)
		(void) pg_atomic_fetch_add_u64(&block->values[value_of(key)], (int64) n);
}

/* --- the journal --- */

static void
forget(void)
{
	nentries = 0;
	part_begin = 0;
	if (capacity > KEPT_ENTRIES)
	{
		pfree(journal);
		journal = NULL;
		capacity = 0;
	}
	extension_changes = false;
	dropped_database = InvalidOid;
}

static bool
is_entry(int at, int key, int from)
{
	return at >= from && at < nentries && journal[at].key == key;
}

static void
note(int key, uint64 n)
{
	int at = last_entry[key];

	if (is_entry(at, key, part_begin))
	{
		journal[at].n += n;
		return;
	}
	if (nentries == capacity)
	{
		int wanted = capacity == 0 ? KEPT_ENTRIES / 4 : capacity * 2;

		journal = journal == NULL ? MemoryContextAlloc(TopMemoryContext, wanted * sizeof(Entry))
								  : repalloc(journal, wanted * sizeof(Entry));
		capacity = wanted;
	}
	journal[nentries] = (Entry){n, key, is_entry(at, key, 0) ? at : -1};
	last_entry[key] = nentries++;
}

static void
begin_part(int level)
{
	if (level >= nlevels)
	{
		int wanted = Max(16, level * 2);

		part_begins = part_begins == NULL
						  ? MemoryContextAllocZero(TopMemoryContext, wanted * sizeof(int))
						  : repalloc(part_begins, wanted * sizeof(int));
		for (int i = nlevels; i < wanted; i++)
			part_begins[i] = 0;
		nlevels = wanted;
	}
	part_begins[level] = part_begin = nentries;
}

/* Of a subtransaction that this session did not see begin, nothing had been counted before. */
static int
begin_of_part(int level)
{
	return level > 1 && level < nlevels ? part_begins[level] : 0;
}

static void
end_part(int level, bool keep)
{
	int begin = begin_of_part(level);
	int outer_begin = begin_of_part(level - 1);
	int kept = begin;

	for (int i = begin; i < nentries; i++)
	{
		Entry entry = journal[i];

		if (!keep)
			last_entry[entry.key] = entry.outer;
		else if (entry.outer >= outer_begin)
		{
			journal[entry.outer].n += entry.n;
			last_entry[entry.key] = entry.outer;
		}
		else
		{
			last_entry[entry.key] = kept;
			journal[kept++] = entry;
		}
	}
	nentries = kept;
	part_begin = outer_begin;
}

static void
at_subtransaction_event(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
						void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_START_SUB)
		begin_part(level);
	else if (event == SUBXACT_EVENT_COMMIT_SUB || event == SUBXACT_EVENT_ABORT_SUB)
		end_part(level, event == SUBXACT_EVENT_COMMIT_SUB);
}

/* --- what becomes of the extension and of databases --- */

/* The counters are those of one installation: they go with it, and begin anew with the next. */
static void
settle_blocks(void)
{
	wahook_CounterMemory *memory = wahook_counter_memory();
	wahook_CounterBlock *own;

	LWLockAcquire(&memory->lock, LW_EXCLUSIVE);
	if (OidIsValid(dropped_database) && (own = wahook_find_block(dropped_database)) != NULL)
		wahook_free_block(own);
	if (extension_changes && extension_after != extension_before)
	{
		own = OidIsValid(extension_after) ? wahook_take_block_locked(MyDatabaseId)
										  : wahook_find_block(MyDatabaseId);
		if (own != NULL && OidIsValid(extension_after))
			wahook_begin_block(own, extension_after);
		else if (own != NULL)
			wahook_free_block(own);
	}
	LWLockRelease(&memory->lock);
}

/* Runs in the midst of a commit: it must not fail. */
static void
flush(void)
{
	if (extension_changes || OidIsValid(dropped_database))
		settle_blocks();
	if (extension_changes && !OidIsValid(extension_after))
		return;
	for (int i = 0; i < nentries; i++)
		add(journal[i].key, journal[i].n);
}

/*
 * What a transaction that is prepared did is counted then: nobody could tell its numbers to the
 * session that commits it. Nearly all are committed.
 */
static void
at_transaction_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			/* Only here it is sure what is left, and can be looked up. */
			if (extension_changes)
				extension_after = get_extension_oid("wahook", true);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
			if (nentries > 0 || extension_changes || OidIsValid(dropped_database))
				flush();
			forget();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
			forget();
			break;
		default:
			break;
	}
}

/*
 * Numbers that were read from a file may be those of a former installation, where the extension was
 * dropped while the library was not preloaded.
 */
static void
check_installation(void)
{
	Oid extension;

	if (find_block() == NULL || block->is_checked)
		return;
	extension = get_extension_oid("wahook", true);
	LWLockAcquire(&wahook_counter_memory()->lock, LW_EXCLUSIVE);
	if (!block->is_checked && OidIsValid(block->extension) && block->extension != extension)
		wahook_begin_block(block, extension);
	block->extension = extension;
	block->is_checked = true;
	LWLockRelease(&wahook_counter_memory()->lock);
}

static void
get_ready(void)
{
	if (!is_ready)
	{
		RegisterXactCallback(at_transaction_event, NULL);
		RegisterSubXactCallback(at_subtransaction_event, NULL);
	}
	is_ready = true;
}

/* --- what others call --- */

bool
wahook_counts(void)
{
	return wahook_counter_memory() != NULL;
}

static void
count(int key, uint64 n, bool now)
{
	if (n == 0)
		return;
	if (now || !IsTransactionState())
	{
		add(key, n);
		return;
	}
	if (!is_ready)
	{
		get_ready();
		check_installation();
	}
	note(key, n);
}

void
wahook_count(wahook_Counter counter, uint64 n)
{
	if (wahook_counts())
		count(counter, n, false);
}

void
wahook_count_now(wahook_Counter counter, uint64 n)
{
	if (wahook_counts())
		count(counter, n, true);
}

static void
observe(wahook_Histogram histogram, int64 microseconds, bool now)
{
	int first = WAHOOK_FIRST_BUCKET + histogram * WAHOOK_HISTOGRAM_VALUES;
	int bucket = 0;

	if (microseconds < 0) /* the clock was set back */
		microseconds = 0;
	while (bucket < WAHOOK_NBUCKETS && microseconds > wahook_bucket_bounds[bucket])
		bucket++;
	count(first + bucket, 1, now);
	count(first + WAHOOK_NBUCKETS + 1, (uint64) microseconds, now);
}

void
wahook_observe(wahook_Histogram histogram, int64 microseconds)
{
	if (wahook_counts())
		observe(histogram, microseconds, false);
}

void
wahook_observe_now(wahook_Histogram histogram, int64 microseconds)
{
	if (wahook_counts())
		observe(histogram, microseconds, true);
}

/* A name has the length of an identifier; a longer one shares its counters with its like. */
static int
own_label(wahook_LabelSet set, const char *label)
{
	KnownLabel *known = known_labels[set];
	char name[NAMEDATALEN];
	int own;

	strlcpy(name, label, pg_mbcliplen(label, (int) strlen(label), NAMEDATALEN - 1) + 1);
	for (own = 0; own < nknown_labels[set]; own++)
		if (strcmp(known[own].name, name) == 0)
			return own;
	if (own == wahook_max_labels[set])
	{
		/* Nothing in the journal refers to these numbers: they may be given anew. */
		if (nentries > 0)
			return own;
		nknown_labels[set] = own = 0;
	}
	strlcpy(known[own].name, name, NAMEDATALEN);
	known[own].number = -1;
	nknown_labels[set]++;
	return own;
}

static void
count_labelled(wahook_CounterFamily family, const char *label, int result, uint64 n, bool now)
{
	const wahook_FamilyLayout *layout = &wahook_family_layouts[family];

	Assert(result >= 0 && result < layout->nresults);
	count(layout->first + own_label(layout->set, label) * layout->nresults + result, n, now);
}

void
wahook_count_labelled(wahook_CounterFamily family, const char *label, int result, uint64 n)
{
	if (wahook_counts())
		count_labelled(family, label, result, n, false);
}

void
wahook_count_labelled_now(wahook_CounterFamily family, const char *label, int result, uint64 n)
{
	if (wahook_counts())
		count_labelled(family, label, result, n, true);
}

/* Called before the change can be seen. */
void
wahook_counters_extension_changes(void)
{
	if (!wahook_counts() || extension_changes)
		return;
	get_ready();
	extension_before = get_extension_oid("wahook", true);
	extension_changes = true;
}

void
wahook_counters_database_goes(Oid database)
{
	if (!wahook_counts())
		return;
	get_ready();
	dropped_database = database;
}
