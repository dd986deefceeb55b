/*
 * Writing jsonb from its parts.
 *
 * A container is a header, an entry for each key and value with its type and length, and behind
 * them keys and values in the same order. Some entries hold where their value ends instead of its
 * length. Numbers and containers are aligned, and the padding before them counts as theirs.
 */
#include "core/json_writer.h"

#include "utils/memutils.h"

/* Objects with more members are sorted otherwise. */
#define MAX_INSERTION_SORT 32

static void
pad(StringInfo out)
{
	int padding = INTALIGN(out->len) - out->len;

	enlargeStringInfo(out, padding);
	memset(out->data + out->len, 0, padding);
	out->len += padding;
}

static void
append_bytes(StringInfo out, const void *bytes, int len)
{
	appendBinaryStringInfo(out, bytes, len);
}

JEntry
wahook_append_value(StringInfo out, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return JENTRY_ISNULL;
		case jbvBool:
			return value->val.boolean ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
		case jbvString:
			append_bytes(out, value->val.string.val, value->val.string.len);
			return JENTRY_ISSTRING;
		case jbvNumeric:
			pad(out);
			append_bytes(out, value->val.numeric, VARSIZE_ANY(value->val.numeric));
			return JENTRY_ISNUMERIC;
		case jbvBinary:
			pad(out);
			append_bytes(out, value->val.binary.data, value->val.binary.len);
			return JENTRY_ISCONTAINER;
		default:
			elog(ERROR, "no part of jsonb: %d", (int) value->type);
	}
}

/* Begins a container with n entries. Returns where it begins. */
static int
begin_container(StringInfo out, uint32 header, int n)
{
	int begin;

	pad(out);
	begin = out->len;
	append_bytes(out, &header, sizeof(header));
	enlargeStringInfo(out, n * (int) sizeof(JEntry));
	out->len += n * (int) sizeof(JEntry);
	return begin;
}

/* Sets entry i of the container, for what was appended from start on. */
static void
set_entry(StringInfo out, int begin, int n, int i, JEntry type, int start)
{
	int first = begin + (int) (sizeof(uint32) + n * sizeof(JEntry));
	JEntry entry = type | (JEntry) (out->len - start);

	if (out->len - first > JENTRY_OFFLENMASK)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("jsonb is too large"),
						errdetail("An object or array has at most %d bytes.", JENTRY_OFFLENMASK),
						errhint("Claim fewer messages at a time: wahook.claim_max_messages.")));
	if (i % JB_OFFSET_STRIDE == 0)
		entry = type | JENTRY_HAS_OFF | (JEntry) (out->len - first);
	memcpy(out->data + begin + sizeof(uint32) + i * sizeof(JEntry), &entry, sizeof(entry));
}

/* The order of the keys in jsonb. */
static int
compare_keys(const void *a, const void *b)
{
	const wahook_JsonMember *left = a;
	const wahook_JsonMember *right = b;

	if (left->key_len != right->key_len)
		return left->key_len < right->key_len ? -1 : 1;
	return memcmp(left->key, right->key, left->key_len);
}

/* There are few as a rule; equal ones stay in their order. */
static void
insertion_sort(wahook_JsonMember *members, int n)
{
	for (int i = 1; i < n; i++)
	{
		wahook_JsonMember member = members[i];
		int at = i;

		if (compare_keys(&members[i - 1], &member) <= 0)
			continue;
		for (; at > 0 && compare_keys(&members[at - 1], &member) > 0; at--)
			members[at] = members[at - 1];
		members[at] = member;
	}
}

typedef struct Ranked
{
	wahook_JsonMember member;
	int rank;
} Ranked;

static int
compare_ranked(const void *a, const void *b)
{
	int order = compare_keys(&((const Ranked *) a)->member, &((const Ranked *) b)->member);

	return order != 0 ? order : ((const Ranked *) a)->rank - ((const Ranked *) b)->rank;
}

static void
sort_many(wahook_JsonMember *members, int n)
{
	Ranked *ranked = palloc_extended(n * sizeof(Ranked), MCXT_ALLOC_HUGE);

	for (int i = 0; i < n; i++)
		ranked[i] = (Ranked){members[i], i};
	qsort(ranked, n, sizeof(Ranked), compare_ranked);
	for (int i = 0; i < n; i++)
		members[i] = ranked[i].member;
	pfree(ranked);
}

JEntry
wahook_append_object(StringInfo out, wahook_JsonMember *members, int n, wahook_ValueWriter write)
{
	int begin;
	int kept = 0;

	if (n <= MAX_INSERTION_SORT)
		insertion_sort(members, n);
	else
		sort_many(members, n);
	for (int i = 0; i < n; i++)
		if (i + 1 == n || compare_keys(&members[i], &members[i + 1]) != 0)
			members[kept++] = members[i];

	begin = begin_container(out, (uint32) kept | JB_FOBJECT, 2 * kept);
	for (int i = 0; i < kept; i++)
	{
		int start = out->len;

		append_bytes(out, members[i].key, members[i].key_len);
		set_entry(out, begin, 2 * kept, i, JENTRY_ISSTRING, start);
	}
	for (int i = 0; i < kept; i++)
	{
		int start = out->len;
		JEntry type = write(out, &members[i].value);

		set_entry(out, begin, 2 * kept, kept + i, type, start);
	}
	return JENTRY_ISCONTAINER;
}

JEntry
wahook_append_array(StringInfo out, const JsonbValue *elements, int n, wahook_ValueWriter write)
{
	int begin = begin_container(out, (uint32) n | JB_FARRAY, n);

	for (int i = 0; i < n; i++)
	{
		int start = out->len;
		JEntry type = write(out, &elements[i]);

		set_entry(out, begin, n, i, type, start);
	}
	return JENTRY_ISCONTAINER;
}

void
wahook_set_string(JsonbValue *value, const char *string, int len)
{
	value->type = jbvString;
	value->val.string.val = unconstify(char *, string);
	value->val.string.len = len;
}

void
wahook_set_jsonb(JsonbValue *value, Jsonb *jsonb)
{
	if (JsonbExtractScalar(&jsonb->root, value))
		return;
	value->type = jbvBinary;
	value->val.binary.data = &jsonb->root;
	value->val.binary.len = (int) VARSIZE(jsonb) - VARHDRSZ;
}

int
wahook_read_members(JsonbContainer *object, wahook_JsonMember *members)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbValue value;
	int n = 0;

	(void) JsonbIteratorNext(&it, &value, true);
	while (JsonbIteratorNext(&it, &value, true) == WJB_KEY)
	{
		members[n].key = value.val.string.val;
		members[n].key_len = value.val.string.len;
		(void) JsonbIteratorNext(&it, &members[n++].value, true);
	}
	return n;
}

void
wahook_begin_jsonb(StringInfo out, int expected_size)
{
	out->maxlen = VARHDRSZ + expected_size;
	out->data = palloc(out->maxlen);
	out->len = VARHDRSZ;
	out->cursor = 0;
}

Jsonb *
wahook_end_jsonb(StringInfo out)
{
	SET_VARSIZE(out->data, out->len);
	return (Jsonb *) out->data;
}
