/*
 * Which conversation a sender belongs to.
 *
 * identity: a phone number or a business-scoped user id. Within a business number (its scope) each
 * leads to one conversation; the empty scope holds those of conversations that were created
 * without a business number. A user id is worth more than a phone number, for numbers are given
 * to other people after a while: where the two disagree, the number moves to the user id's
 * conversation, and the history stays where it is.
 *
 * Two deliveries can bring the first messages of one user at the same time. The second finds the
 * first one's identity rows with a dirty snapshot and joins the conversation that they name,
 * without waiting to see whether it commits. If it does not, the conversation is created by the
 * claim of the messages in it (conversation/claim.c).
 */
#include "ingest/identity.h"

#include "access/genam.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "core/columns.h"
#include "core/compat.h"
#include "core/plan.h"
#include "core/row.h"
#include "core/tables.h"
#include "core/uuid.h"

typedef enum Fate
{
	KNOWN,   /* leads there already */
	UNKNOWN, /* leads nowhere */
	ADDED,   /* a new row is to be written */
	MOVED    /* its row is to be changed or, if there is none, written */
} Fate;

/* An identity that the delivery names, looked up once. */
typedef struct Identity
{
	int next; /* in its bucket */
	const char *scope;
	const char *name;
	Fate fate;
	bool joined; /* seen in another transaction, not committed yet */
	pg_uuid_t conversation_id;
} Identity;

struct wahook_Resolver
{
	wahook_Sender *senders;
	int nsenders;
	wahook_RowReader rows;
	Identity *identities;
	int n;
	int max;
	int *buckets; /* of identities by hash: the last one added, or -1 */
	uint32 mask;
	List *created; /* wahook_Sender whose conversation is new */
	List *left;    /* Identity copies that no longer lead to their conversation */
};

static wahook_Plan create_plan =
	{"INSERT INTO @extschema@.webhook_conversations (id, user_id, whatsapp_phone, phone_number_id)"
	 " SELECT * FROM unnest($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
	 4,
	 {UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}};

static wahook_Plan not_needed_plan = {"DELETE FROM @extschema@.webhook_conversations WHERE id = $1",
									  1,
									  {UUIDOID}};

static wahook_Plan add_plan =
	{"INSERT INTO @extschema@.webhook_identities (phone_number_id, identity, kind, conversation_id)"
	 " SELECT scope, name, CASE WHEN name ~ '^[0-9]' THEN 'phone' ELSE 'user_id' END, id"
	 " FROM unnest($1, $2, $3) AS i (scope, name, id) ORDER BY scope, name"
	 " ON CONFLICT DO NOTHING RETURNING phone_number_id, identity",
	 3,
	 {TEXTARRAYOID, TEXTARRAYOID, UUIDARRAYOID}};

static wahook_Plan move_plan =
	{"INSERT INTO @extschema@.webhook_identities (phone_number_id, identity, kind, conversation_id)"
	 " SELECT scope, name, CASE WHEN name ~ '^[0-9]' THEN 'phone' ELSE 'user_id' END, id"
	 " FROM unnest($1, $2, $3) AS i (scope, name, id) ORDER BY scope, name"
	 " ON CONFLICT (phone_number_id, identity)"
	 " DO UPDATE SET conversation_id = excluded.conversation_id",
	 3,
	 {TEXTARRAYOID, TEXTARRAYOID, UUIDARRAYOID}};

static wahook_Plan leave_plan =
	{"DELETE FROM @extschema@.webhook_identities i USING unnest($1, $2, $3) AS o (scope, name, id)"
	 " WHERE i.phone_number_id = o.scope AND i.identity = o.name AND i.conversation_id = o.id",
	 3,
	 {TEXTARRAYOID, TEXTARRAYOID, UUIDARRAYOID}};

static wahook_Plan other_user_plan =
	{"SELECT FROM @extschema@.webhook_identities WHERE conversation_id = $1 AND kind = 'user_id'"
	 " AND identity <> $2 LIMIT 1",
	 2,
	 {UUIDOID, TEXTOID}};

static wahook_Plan redirect_plan =
	{"UPDATE @extschema@.webhook_identities SET conversation_id = $2 WHERE conversation_id = $1",
	 2,
	 {UUIDOID, UUIDOID}};

bool wahook_creating_conversations = false;

wahook_RowState
wahook_peek_identity(wahook_RowReader *rows, const char *scope, const char *name,
					 pg_uuid_t *conversation_id)
{
	ScanKeyData keys[2];
	wahook_RowState state;
	bool isnull;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(name));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(scope));
	for (size_t i = 0; i < lengthof(keys); i++)
		keys[i].sk_collation = rows->index->rd_indcollation[i];
	state = wahook_peek_row(rows, keys, lengthof(keys));
	if (state != WAHOOK_ROW_NONE)
		*conversation_id =
			*DatumGetUUIDP(slot_getattr(rows->slot, Anum_identity_conversation_id, &isnull));
	return state;
}

/* What is known of an identity, by this delivery so far or in the table. */
static Identity *
look_up(wahook_Resolver *resolver, const char *scope, const char *name)
{
	int *bucket =
		&resolver->buckets[hash_bytes((const unsigned char *) name, strlen(name)) & resolver->mask];
	Identity *identity;
	wahook_RowState state;

	for (int i = *bucket; i >= 0; i = identity->next)
	{
		identity = &resolver->identities[i];
		if (strcmp(identity->name, name) == 0 && strcmp(identity->scope, scope) == 0)
			return identity;
	}
	Assert(resolver->n < resolver->max);
	identity = &resolver->identities[resolver->n];
	memset(identity, 0, sizeof(*identity));
	identity->next = *bucket;
	*bucket = resolver->n++;
	identity->scope = scope;
	identity->name = name;
	state = wahook_peek_identity(&resolver->rows, scope, name, &identity->conversation_id);
	if (state == WAHOOK_ROW_NONE && scope[0] != '\0')
		state = wahook_peek_identity(&resolver->rows, "", name, &identity->conversation_id);
	identity->fate = state == WAHOOK_ROW_NONE ? UNKNOWN : KNOWN;
	identity->joined = state == WAHOOK_ROW_ARRIVING;
	return identity;
}

/* Makes an identity lead to a conversation. True when it did not before. */
static bool
lead_to(Identity *identity, const pg_uuid_t *conversation_id)
{
	if (identity->fate != UNKNOWN &&
		memcmp(&identity->conversation_id, conversation_id, sizeof(pg_uuid_t)) == 0)
		return identity->joined;
	identity->fate = identity->fate == UNKNOWN ? ADDED : MOVED;
	identity->conversation_id = *conversation_id;
	return true;
}

/* A number whose conversation already has another user id was given to somebody else. */
static bool
belongs_to_other_user(const pg_uuid_t *conversation_id, const char *user_id)
{
	Datum values[] = {UUIDPGetDatum(conversation_id), CStringGetTextDatum(user_id)};

	return wahook_execute(&other_user_plan, values, NULL) > 0;
}

static void
leave(wahook_Resolver *resolver, Identity *identity, const pg_uuid_t *conversation_id)
{
	Identity *copy;

	if (identity->fate == UNKNOWN ||
		memcmp(&identity->conversation_id, conversation_id, sizeof(pg_uuid_t)) != 0)
		return;
	copy = palloc(sizeof(Identity));
	*copy = *identity;
	resolver->left = lappend(resolver->left, copy);
	identity->fate = UNKNOWN;
}

static void
resolve(wahook_Resolver *resolver, wahook_Sender *sender)
{
	const char *scope = sender->phone_number_id ? sender->phone_number_id : "";
	Identity *phone = sender->phone ? look_up(resolver, scope, sender->phone) : NULL;
	Identity *user = sender->user_id ? look_up(resolver, scope, sender->user_id) : NULL;
	bool created = false;

	if (user && user->fate != UNKNOWN)
		sender->conversation_id = user->conversation_id;
	else if (phone && phone->fate != UNKNOWN &&
			 !(user && phone->fate == KNOWN &&
			   belongs_to_other_user(&phone->conversation_id, sender->user_id)))
		sender->conversation_id = phone->conversation_id;
	else
	{
		wahook_new_uuid(&sender->conversation_id);
		resolver->created = lappend(resolver->created, sender);
		created = true;
	}
	if (phone && lead_to(phone, &sender->conversation_id))
		sender->announce = true;
	if (user && lead_to(user, &sender->conversation_id))
		sender->announce = true;

	if (sender->new_phone)
	{
		Identity *new_phone = look_up(resolver, scope, sender->new_phone);

		if (phone && phone != new_phone)
			leave(resolver, phone, &sender->conversation_id);
		sender->announce |= lead_to(new_phone, &sender->conversation_id);
	}
	if (sender->new_user_id)
	{
		Identity *new_user = look_up(resolver, scope, sender->new_user_id);

		if (user && user != new_user)
			leave(resolver, user, &sender->conversation_id);
		sender->announce |= lead_to(new_user, &sender->conversation_id);
	}
	if (created)
		sender->announce = false; /* its row is written with these names */
}

void
wahook_create_conversations(List *senders)
{
	int n = list_length(senders);
	wahook_Column ids;
	wahook_Column user_ids;
	wahook_Column phones;
	wahook_Column scopes;
	Datum values[4];

	if (n == 0)
		return;
	wahook_start_column(&ids, UUIDOID, n);
	wahook_start_column(&user_ids, TEXTOID, n);
	wahook_start_column(&phones, TEXTOID, n);
	wahook_start_column(&scopes, TEXTOID, n);
	for (int i = 0; i < n; i++)
	{
		wahook_Sender *sender = list_nth(senders, i);
		const char *phone = sender->new_phone ? sender->new_phone : sender->phone;

		wahook_add_uuid(&ids, &sender->conversation_id);
		wahook_add_text(&user_ids, sender->new_user_id ? sender->new_user_id
								   : sender->user_id   ? sender->user_id
													   : phone);
		wahook_add_text(&phones, phone);
		wahook_add_text(&scopes, sender->phone_number_id);
	}
	values[0] = wahook_finish_column(&ids);
	values[1] = wahook_finish_column(&user_ids);
	values[2] = wahook_finish_column(&phones);
	values[3] = wahook_finish_column(&scopes);
	wahook_creating_conversations = true;
	PG_TRY();
	{
		wahook_execute(&create_plan, values, NULL);
	}
	PG_FINALLY();
	{
		wahook_creating_conversations = false;
	}
	PG_END_TRY();
}

/* Runs a plan over the identities; they must live until it returns. */
static uint64
write_identities(wahook_Plan *plan, Identity **identities, int n)
{
	wahook_Column scopes;
	wahook_Column names;
	wahook_Column ids;
	Datum values[3];

	if (n == 0)
		return 0;
	wahook_start_column(&scopes, TEXTOID, n);
	wahook_start_column(&names, TEXTOID, n);
	wahook_start_column(&ids, UUIDOID, n);
	for (int i = 0; i < n; i++)
	{
		wahook_add_text(&scopes, identities[i]->scope);
		wahook_add_text(&names, identities[i]->name);
		wahook_add_uuid(&ids, &identities[i]->conversation_id);
	}
	values[0] = wahook_finish_column(&scopes);
	values[1] = wahook_finish_column(&names);
	values[2] = wahook_finish_column(&ids);
	return wahook_execute(plan, values, NULL);
}

/*
 * Another transaction created the identity after we had looked and has committed by now: its
 * conversation is the user's, and one that we have just created is not needed.
 */
static void
join_rival(wahook_Resolver *resolver, Identity *identity)
{
	wahook_Sender *senders = resolver->senders;
	pg_uuid_t ours = identity->conversation_id;
	pg_uuid_t theirs;
	Datum values[] = {UUIDPGetDatum(&ours), UUIDPGetDatum(&theirs)};
	bool created = false;

	if (wahook_peek_identity(&resolver->rows, identity->scope, identity->name, &theirs) ==
			WAHOOK_ROW_NONE ||
		memcmp(&ours, &theirs, sizeof(pg_uuid_t)) == 0)
		return;
	for (int i = 0; i < resolver->nsenders; i++)
		if (memcmp(&senders[i].conversation_id, &ours, sizeof(pg_uuid_t)) == 0)
		{
			senders[i].conversation_id = theirs;
			created |= list_member_ptr(resolver->created, &senders[i]);
			resolver->created = list_delete_ptr(resolver->created, &senders[i]);
		}
	for (int i = 0; i < resolver->n; i++)
		if (memcmp(&resolver->identities[i].conversation_id, &ours, sizeof(pg_uuid_t)) == 0)
			resolver->identities[i].conversation_id = theirs;
	wahook_execute(&redirect_plan, values, NULL);
	if (created)
		wahook_execute(&not_needed_plan, values, NULL);
}

static void
add_identities(wahook_Resolver *resolver, Identity **added, int n)
{
	uint64 written = write_identities(&add_plan, added, n);
	SPITupleTable *rows = SPI_tuptable;

	if (written == (uint64) n)
		return;
	for (int i = 0; i < n; i++)
	{
		bool ours = false;

		for (uint64 row = 0; row < written && !ours; row++)
			ours = strcmp(SPI_getvalue(rows->vals[row], rows->tupdesc, 1), added[i]->scope) == 0 &&
				   strcmp(SPI_getvalue(rows->vals[row], rows->tupdesc, 2), added[i]->name) == 0;
		if (!ours)
			join_rival(resolver, added[i]);
	}
}

wahook_Resolver *
wahook_look_up_senders(wahook_Sender *senders, int n)
{
	wahook_Resolver *resolver = palloc0_object(wahook_Resolver);

	resolver->senders = senders;
	resolver->nsenders = n;
	resolver->max = 4 * n;
	resolver->identities = palloc_array(Identity, Max(resolver->max, 1));
	resolver->mask = pg_nextpower2_32(Max(resolver->max, 1)) - 1;
	resolver->buckets = palloc_array(int, resolver->mask + 1);
	memset(resolver->buckets, -1, (resolver->mask + 1) * sizeof(int));
	wahook_open_rows(&resolver->rows, "webhook_identities", "webhook_identities_pkey",
					 RowExclusiveLock);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		resolve(resolver, &senders[i]);
	}
	return resolver;
}

bool
wahook_senders_change(const wahook_Resolver *resolver)
{
	if (resolver->created != NIL || resolver->left != NIL)
		return true;
	for (int i = 0; i < resolver->n; i++)
		if (resolver->identities[i].fate == ADDED || resolver->identities[i].fate == MOVED)
			return true;
	return false;
}

void
wahook_forget_senders(wahook_Resolver *resolver)
{
	wahook_close_rows(&resolver->rows);
}

void
wahook_write_senders(wahook_Resolver *resolver)
{
	Identity **added = palloc_array(Identity *, Max(resolver->n, 1));
	Identity **moved = palloc_array(Identity *, Max(resolver->n, 1));
	int nleft = list_length(resolver->left);
	Identity **left = palloc_array(Identity *, Max(nleft, 1));
	int nadded = 0;
	int nmoved = 0;

	for (int i = 0; i < resolver->n; i++)
	{
		if (resolver->identities[i].fate == ADDED)
			added[nadded++] = &resolver->identities[i];
		else if (resolver->identities[i].fate == MOVED)
			moved[nmoved++] = &resolver->identities[i];
	}
	for (int i = 0; i < nleft; i++)
		left[i] = list_nth(resolver->left, i);
	write_identities(&leave_plan, left, nleft);
	/* First the conversation, then the names by which others join it: they must see it arriving. */
	wahook_create_conversations(resolver->created);
	add_identities(resolver, added, nadded);
	write_identities(&move_plan, moved, nmoved);
	wahook_close_rows(&resolver->rows);
}
