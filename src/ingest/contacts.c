/*
 * The contacts of a change. They are found by name and never by position, for they may be fewer
 * than the messages or in another order; and by a binary search, for a delivery may hold thousands.
 */
#include "ingest/contacts.h"

#include "lib/qunique.h"

#include "ingest/envelope.h"

void
wahook_start_contacts(wahook_Contacts *contacts, int max)
{
	memset(contacts, 0, sizeof(*contacts));
	contacts->all = palloc_array(wahook_Contact, Max(max, 1));
	contacts->by_phone = palloc_array(wahook_Contact *, Max(max, 1));
	contacts->by_user_id = palloc_array(wahook_Contact *, Max(max, 1));
}

void
wahook_add_contact(wahook_Contacts *contacts, wahook_Span contact)
{
	wahook_Contact *new = &contacts->all[contacts->n++];

	new->raw = contact;
	new->phone =
		wahook_normalize_identity(wahook_json_text(contact, "wa_id", WAHOOK_MAX_IDENTITY_LENGTH));
	new->user_id = wahook_json_text(contact, "user_id", WAHOOK_MAX_IDENTITY_LENGTH);
	if (new->phone)
		contacts->by_phone[contacts->nphones++] = new;
	if (new->user_id)
		contacts->by_user_id[contacts->nuser_ids++] = new;
}

static int
compare_phones(const void *a, const void *b)
{
	return strcmp((*(wahook_Contact *const *) a)->phone, (*(wahook_Contact *const *) b)->phone);
}

static int
compare_user_ids(const void *a, const void *b)
{
	return strcmp((*(wahook_Contact *const *) a)->user_id, (*(wahook_Contact *const *) b)->user_id);
}

/* They lie in one array, in their order. */
static int
in_order(int comparison, const void *a, const void *b)
{
	if (comparison != 0)
		return comparison;
	return *(wahook_Contact *const *) a < *(wahook_Contact *const *) b ? -1 : 1;
}

static int
compare_phones_in_order(const void *a, const void *b)
{
	return in_order(compare_phones(a, b), a, b);
}

static int
compare_user_ids_in_order(const void *a, const void *b)
{
	return in_order(compare_user_ids(a, b), a, b);
}

void
wahook_sort_contacts(wahook_Contacts *contacts)
{
	const size_t size = sizeof(wahook_Contact *);

	qsort(contacts->by_phone, contacts->nphones, size, compare_phones_in_order);
	contacts->nphones = qunique(contacts->by_phone, contacts->nphones, size, compare_phones);
	qsort(contacts->by_user_id, contacts->nuser_ids, size, compare_user_ids_in_order);
	contacts->nuser_ids =
		qunique(contacts->by_user_id, contacts->nuser_ids, size, compare_user_ids);
}

static wahook_Contact *
search(wahook_Contact **sorted, int n, const wahook_Contact *like,
	   int (*compare)(const void *, const void *))
{
	wahook_Contact **found = bsearch(&like, sorted, n, sizeof(wahook_Contact *), compare);

	return found ? *found : NULL;
}

const wahook_Contact *
wahook_find_contact(const wahook_Contacts *contacts, const char *phone, const char *user_id)
{
	wahook_Contact like = {.phone = unconstify(char *, phone),
						   .user_id = unconstify(char *, user_id)};
	wahook_Contact *by_phone = NULL;
	wahook_Contact *by_user_id = NULL;

	if (phone)
		by_phone = search(contacts->by_phone, contacts->nphones, &like, compare_phones);
	if (user_id)
		by_user_id = search(contacts->by_user_id, contacts->nuser_ids, &like, compare_user_ids);
	if (by_phone && by_user_id)
		return Min(by_phone, by_user_id);
	return by_phone ? by_phone : by_user_id;
}
