/*
 * The contacts of a change: who its messages are from.
 */
#ifndef WAHOOK_CONTACTS_H
#define WAHOOK_CONTACTS_H

#include "postgres.h"

#include "ingest/json.h"
#include "ingest/json_split.h"

/* Strings are null where there is none; the phone number is normalized. */
typedef struct wahook_Contact
{
	wahook_Span raw;
	char *phone;
	char *user_id;
} wahook_Contact;

typedef struct wahook_Contacts
{
	wahook_Contact *all; /* in their order */
	int n;
	wahook_Contact **by_phone; /* below: sorted, the first of each name */
	int nphones;
	wahook_Contact **by_user_id;
	int nuser_ids;
} wahook_Contacts;

/* First room for max of them, then each, then all are put in order. */
extern void wahook_start_contacts(wahook_Contacts *contacts, int max);
extern void wahook_add_contact(wahook_Contacts *contacts, wahook_Span contact);
extern void wahook_sort_contacts(wahook_Contacts *contacts);

/* The first contact with one of these names, which may be null; null: there is none. */
extern const wahook_Contact *wahook_find_contact(const wahook_Contacts *contacts, const char *phone,
												 const char *user_id);

#endif
